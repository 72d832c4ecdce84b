"""Data that is broken: image folders, images, and every archive that is read."""

from __future__ import annotations

import gzip
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image

from dashdeploy import data as datasets
from dashdeploy.recipe.schema import Data
from tests.torture.campaign import campaign, verdict
from tests.torture.harness import Outcome, call
from tests.torture.mutate import contents

pytestmark = pytest.mark.slow


def loaded(folder: Path, **settings: Any) -> Outcome:
    """What a stage does first: the images of the recipe's data section, split."""

    def work() -> None:
        config = Data(**settings)
        images = datasets.load_dataset(config)
        images.split(config.holdout)
        print(images.sha256)

    return call(work, cwd=folder)


def encoded(kind: str, mode: str, size: tuple[int, int] = (8, 8)) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).resize(size).convert(mode).save(buffer, format=kind)
    return buffer.getvalue()


def tree_of(folder: Path, images: dict[str, bytes]) -> None:
    for name, content in images.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


FOLDER = {f"data/{c}/{i}.png": encoded("PNG", "RGB") for c in ("cat", "dog") for i in range(3)}


@pytest.mark.parametrize(("kind", "mode"), [("PNG", "RGB"), ("PNG", "P"), ("JPEG", "L"), ("WEBP", "RGB")])
def test_images(kind: str, mode: str, tmp_path: Path, warm: None) -> None:
    def judge(made: bytes, folder: Path) -> str:
        tree_of(folder, FOLDER | {f"data/dog/9.{kind.lower()}": made})
        return verdict(loaded(folder, name="image_folder", path="data"))

    campaign(f"images: {kind} {mode}", contents(encoded(kind, mode), head=80), judge, folder=tmp_path, whole=60, few=4)


NAMES = ["", ".hidden", "a\nb", "\x1b[31m", "é", "x" * 250, "..png", "-", " ", "%s", "<b>", "a:b", "\udcff"]


@st.composite
def folders(draw: st.DrawFn) -> list[tuple[str, str]]:
    """Up to three changes of a folder: files and classes of strange names and kinds, at strange places."""
    kinds = ["image", "empty", "text", "link to nothing", "link to itself", "folder", "pipe", "unreadable size", "grey"]
    names = st.sampled_from(NAMES).map(lambda name: f"data/dog/{name}.png") | st.sampled_from(NAMES[1:]).map(
        lambda name: f"data/{name}/1.png"
    )
    places = names | st.sampled_from(["data/1.png", "data/dog/0.png", "data/bird"])
    return draw(st.lists(st.tuples(places, st.sampled_from(kinds)), min_size=1, max_size=3))


def test_image_folders(tmp_path: Path, warm: None) -> None:
    def judge(changes: list[tuple[str, str]], folder: Path) -> str:
        tree_of(folder, FOLDER)
        for name, kind in changes:
            path = folder / name
            if os.path.lexists(path):
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            if kind == "folder":
                path.mkdir()
            elif kind == "pipe":
                os.mkfifo(path)
            elif kind.startswith("link"):
                path.symlink_to("nowhere" if kind == "link to nothing" else path.name)
            else:
                sizes = {"image": encoded("PNG", "RGB"), "grey": encoded("PNG", "L"), "empty": b"", "text": b"hello"}
                path.write_bytes(sizes.get(kind) or encoded("PNG", "RGB", (8, 9)) if kind != "empty" else b"")
        return verdict(loaded(folder, name="image_folder", path="data"))

    campaign("image folders", folders(), judge, folder=tmp_path, whole=120, few=6)


def npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def latents() -> dict[str, Any]:
    labels = np.arange(12) % 3
    return {"latents": np.zeros((12, 4, 8, 8), np.float16), "labels": labels, "classes": np.array(["a", "b", "c"])}


@st.composite
def strange_latents(draw: st.DrawFn) -> bytes:
    """An archive whose arrays have another type, shape or value."""
    arrays = latents()
    name = draw(st.sampled_from(sorted(arrays)))
    value = arrays[name]
    strange: list[Callable[[], Any]] = [
        lambda: value[:0],
        lambda: value[:5],
        lambda: value.reshape(-1),
        lambda: value[None],
        lambda: np.array(0),
        lambda: np.array([None] * 12, dtype=object),
        lambda: np.full(12, np.nan),
        lambda: np.full(12, 2**40),
        lambda: np.full(12, -1),
        lambda: np.full((12, 4, 8, 8), np.inf, np.float32),
        lambda: np.zeros((12, 4, 8, 9), np.float32),
        lambda: np.zeros((12, 4, 8, 8), np.complex64),
        lambda: np.array(["x"] * 12),
        lambda: np.array(["a\x1b", "b\x00c", ""]),
    ]
    return npz(**{**arrays, name: draw(st.sampled_from(strange))()})


def test_latents(tmp_path: Path, warm: None) -> None:
    def judge(made: bytes, folder: Path) -> str:
        (folder / "data.npz").write_bytes(made)
        return verdict(loaded(folder, name="latents", path="data.npz"))

    cases = strange_latents() | contents(npz(**latents()))
    campaign("latents", cases, judge, folder=tmp_path, whole=150, few=8)


def idx(kind: int, shape: tuple[int, ...]) -> bytes:
    header = bytes([0, 0, 8, kind]) + b"".join(n.to_bytes(4, "big") for n in shape)
    return header + bytes(i % 10 for i in range(int(np.prod(shape))))


def test_idx_files(tmp_path: Path, warm: None) -> None:
    """Fashion-MNIST's files, plain and gzipped."""
    plain = {"train-images-idx3-ubyte": idx(3, (20, 28, 28)), "train-labels-idx1-ubyte": idx(1, (20,))}

    def judge(case: tuple[str, bool, bytes], folder: Path) -> str:
        name, inside, made = case
        files = {f"{n}.gz": gzip.compress(content, mtime=0) for n, content in plain.items()}
        files[f"{name}.gz"] = gzip.compress(made, mtime=0) if inside else made
        tree_of(folder, {f"data/{n}": content for n, content in files.items()})
        return verdict(loaded(folder, name="fashion_mnist", path="data"))

    def changes(case: tuple[str, bool]) -> st.SearchStrategy[tuple[str, bool, bytes]]:
        name, inside = case
        content = plain[name] if inside else gzip.compress(plain[name], mtime=0)
        return st.tuples(st.just(name), st.just(inside), contents(content, head=40))

    cases = st.tuples(st.sampled_from(sorted(plain)), st.booleans()).flatmap(changes)
    campaign("idx files", cases, judge, folder=tmp_path, whole=120, few=6)


def test_cifar_files(tmp_path: Path, warm: None) -> None:
    """CIFAR-10's unpacked binary files, and its archive."""
    rows = b"".join(bytes([i % 10]) + bytes(3072) for i in range(10_000))
    names = "\n".join(["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"])
    files = {f"data/cifar-10-batches-bin/data_batch_{i}.bin": rows for i in range(1, 6)}
    files["data/cifar-10-batches-bin/batches.meta.txt"] = (names + "\n\n").encode()

    def judge(case: tuple[str, bytes], folder: Path) -> str:
        tree_of(folder, files | {case[0]: case[1]})
        return verdict(loaded(folder, name="cifar10", path="data"))

    changed = ["data/cifar-10-batches-bin/data_batch_2.bin", "data/cifar-10-batches-bin/batches.meta.txt"]
    cases = st.sampled_from(changed).flatmap(lambda n: st.tuples(st.just(n), contents(files[n])))
    cases |= st.tuples(st.just("data/cifar-10-binary.tar.gz"), st.binary(max_size=64))
    campaign("CIFAR files", cases, judge, folder=tmp_path, whole=80, few=4)
