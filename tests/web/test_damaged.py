"""Damaged web folders: a message in words on the page for each, no image, no uncaught error in the console."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dashdeploy import stages
from tests.records import with_value
from tests.web.browsing import ISOLATED, Chromium, Server

pytestmark = pytest.mark.slow

Damage = Callable[[Path], None]
CASES: dict[str, tuple[Damage, str]] = {}
CHANGED = "damaged or changed since it was made"


def put(path: Path, content: bytes) -> None:
    """Write a file anew: the one that is there is a link to the package's."""
    path.unlink()
    path.write_bytes(content)


def seal(folder: Path, text: bytes) -> None:
    """A manifest that vouches for itself."""
    path = folder / "artifact" / stages.MANIFEST
    put(path, text)
    put(folder / "artifact" / stages.SIDECAR, stages.sidecar_text(path))


def flipped(name: str) -> Damage:
    def damage(folder: Path) -> None:
        data = bytearray((folder / name).read_bytes())
        data[len(data) // 2] ^= 1
        put(folder / name, bytes(data))

    return damage


def removed(name: str) -> Damage:
    return lambda folder: (folder / name).unlink()


def emptied(name: str) -> Damage:
    return lambda folder: put(folder / name, b"")


def halved(name: str) -> Damage:
    return lambda folder: put(folder / name, (folder / name).read_bytes()[: (folder / name).stat().st_size // 2])


def edited(path: str, value: Any) -> Damage:
    """One value of the manifest, sealed again; `path` is its keys with blanks between."""

    def damage(folder: Path) -> None:
        manifest = json.loads((folder / "artifact" / stages.MANIFEST).read_text())
        seal(folder, json.dumps(with_value(manifest, path.split(), value)).encode())

    return damage


def text_of(change: Callable[[bytes], bytes]) -> Damage:
    return lambda folder: seal(folder, change((folder / "artifact" / stages.MANIFEST).read_bytes()))


def vouched(name: str, content: bytes) -> Damage:
    """Another content of a file, which the manifest vouches for."""

    def damage(folder: Path) -> None:
        put(folder / "artifact" / name, content)
        manifest = json.loads((folder / "artifact" / stages.MANIFEST).read_text())
        manifest["files"][name] = stages.file_sha256(folder / "artifact" / name)
        seal(folder, json.dumps(manifest).encode())

    return damage


def copied(source: str, name: str) -> Damage:
    return lambda folder: vouched(name, (folder / "artifact" / source).read_bytes())(folder)


# The artifact's files
for graph in ("guided", "cond", "step", "sampler"):
    CASES[f"a flipped bit in {graph}"] = (flipped(f"artifact/{graph}.onnx"), f"artifact/{graph}.onnx: {CHANGED}")
CASES |= {
    "no artifact": (lambda folder: shutil.rmtree(folder / "artifact"), "artifact: not an artifact"),
    "no manifest": (removed("artifact/manifest.json"), "artifact: not an artifact (it has no manifest.json)"),
    "no sidecar": (removed("artifact/manifest.json.sha256"), "it holds the SHA-256 of manifest.json"),
    "an empty sidecar": (emptied("artifact/manifest.json.sha256"), "artifact/manifest.json: damaged or changed"),
    "a sidecar of megabytes": (
        lambda folder: put(folder / "artifact/manifest.json.sha256", b"0" * 5_000_000),
        "expected at most 4096",
    ),
    "a missing graph": (removed("artifact/step.onnx"), "artifact/step.onnx: no such file"),
    "an empty graph": (emptied("artifact/step.onnx"), f"artifact/step.onnx: {CHANGED}"),
    "half a graph": (halved("artifact/cond.onnx"), f"artifact/cond.onnx: {CHANGED}"),
    "an empty graph that is vouched for": (vouched("step.onnx", b""), "ONNX Runtime, artifact/step.onnx: "),
    "a graph that is none": (vouched("step.onnx", b"\x7fELF" * 100), "artifact/step.onnx: not a whole ONNX model"),
    "another graph in its place": (
        copied("cond.onnx", "step.onnx"),
        "its inputs and outputs are not what the manifest",
    ),
    "a graph of another signature": (
        copied("sampler.onnx", "cond.onnx"),
        "its input noise is not what the manifest says",
    ),
    "a graph whose weights lie elsewhere": (lambda folder: elsewhere(folder), "which is none of its files"),
}
# The manifest's text
CASES |= {
    "an edited manifest": (flipped("artifact/manifest.json"), "artifact/manifest.json: "),
    "an empty manifest": (text_of(lambda text: b""), "not JSON (it ends too early)"),
    "half a manifest": (text_of(lambda text: text[: len(text) // 2]), "not JSON"),
    "invalid UTF-8": (text_of(lambda text: b"\xf0\x28\x8c\x28" + text), "not JSON (it is not UTF-8)"),
    "zero bytes": (text_of(lambda text: bytes(5000)), "not JSON"),
    "a list": (text_of(lambda text: b"[1, 2]"), "the manifest must be an object"),
    "deep nesting": (text_of(lambda text: b"[" * 200_000 + b"]" * 200_000), "not JSON (it is nested too deeply)"),
    "not a number": (text_of(lambda text: text.replace(b'"format": 5', b'"format": NaN')), "not JSON"),
    "a page in its place": (text_of(lambda text: b"<!doctype html><title>404</title>"), "not JSON (at character 0"),
}
# Its values
CASES |= {
    "an older format": (edited("format", 4), "format is 4, and this library reads 5. Export the artifact again"),
    "a later format": (edited("format", 6), "format is 6, and this library reads 5. Export the artifact again"),
    "no artifact in it": (edited("artifact", KeyError), "the manifest has no artifact"),
    "no files": (edited("files", KeyError), "the manifest has no files"),
    "an unknown backend": (edited("artifact backend", "abacus"), "backend is 'abacus'; known: onnxruntime"),
    "another backend": (edited("artifact backend", "openvino"), "for the backend 'openvino', and this library runs"),
    "another provider": (
        edited("artifact providers 0", "CUDAExecutionProvider"),
        "CUDAExecutionProvider; this library",
    ),
    "half precision": (edited("artifact precision", "fp16"), "of precision fp16; this library runs: fp32, int8"),
    "huge images": (edited("artifact image_shape", [60000, 60000, 60000]), "image_shape has more than"),
    "two sides": (edited("artifact image_shape", [8, 8]), "must be (channels, height, width)"),
    "sides unlike the graphs'": (edited("artifact image_shape", [1, 8, 16]), "is not that of image_shape"),
    "too many classes": (edited("artifact num_classes", 11), "10 names for 11 classes"),
    "a beta of one": (edited("artifact betas 3", 1.0), "betas.3 must be between 0 and 1"),
    "steps that rise": (edited("artifact sampling timesteps 0", 0), "sampling.timesteps must descend"),
    "another solver": (edited("artifact sampling solver", "dpmpp_2m"), "solver is 'dpmpp_2m'; known: ddim"),
    "a file outside": (
        edited("artifact graphs step file", "../step.onnx"),
        "not a file inside of the artifact's folder",
    ),
    "an unlisted file": (edited("artifact graphs step files", ["other.onnx"]), "files does not list"),
}
# The page's own files
CASES |= {
    f"a flipped bit in {name}": (flipped(name), f"{name}: {CHANGED}")
    for name in ("page.js", "worker.js", "dashdeploy.js", "sw.js", "ort.js", "ort/ort.wasm.bundle.min.js")
}
WASM = "ort/ort-wasm-simd-threaded.wasm.gzip"
CASES |= {
    "no page.js": (removed("page.js"), "page.js: no such file"),
    "no worker": (removed("worker.js"), "worker.js: no such file"),
    "no sampler": (removed("model.js"), "model.js: no such file"),
    "an empty module": (emptied("studio.js"), f"studio.js: {CHANGED}"),
    "no list of files": (removed("files.js"), "files.js: missing or damaged"),
    "another list of files": (flipped("files.js"), "files.js: missing or damaged"),
    "no start": (removed("start.js"), "start.js or files.js is missing, damaged or an old copy"),
    "another start": (flipped("start.js"), "start.js or files.js is missing, damaged or an old copy"),
    "another style": (flipped("page.css"), f"page.css: {CHANGED}"),
    "no runtime": (lambda folder: shutil.rmtree(folder / "ort"), "ort/ort.json: no such file"),
    "a flipped bit in the WASM": (flipped(WASM), f"{WASM}: damaged"),
    "half of the WASM": (halved(WASM), f"{WASM}: damaged"),
    "no WASM": (removed(WASM), f"{WASM}: no such file"),
}


def elsewhere(folder: Path) -> None:
    """A whole step graph whose weights are said to lie in another file."""
    import onnx

    path = folder / "artifact" / "step.onnx"
    model = onnx.load(path)
    path.unlink()
    onnx.save(model, path, save_as_external_data=True, location="passwd", size_threshold=0)
    (path.parent / "passwd").unlink()
    vouched("step.onnx", path.read_bytes())(folder)


@pytest.fixture(scope="module")
def damaged(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A folder for each case, numbered; what is not changed is a link to the package's."""
    top = tmp_path_factory.mktemp("damaged")
    for number, (damage, _) in enumerate(CASES.values()):
        folder = top / str(number)
        shutil.copytree(package, folder, copy_function=os.link)
        damage(folder)
    with Server(top, ISOLATED) as server:
        yield server


def test_there_are_fifty() -> None:
    assert len(CASES) >= 50


def test_each_is_told_in_words_on_the_page_and_draws_nothing(chromium: Chromium, damaged: Server) -> None:
    code = """
    const said = [];
    for (const url of args.urls) {
      await page.goto(url);
      await page.waitForFunction(() => !document.getElementById("alert").hidden
        && document.getElementById("status").textContent === "");
      said.push(await page.evaluate(() => [
        document.getElementById("alert").innerText, document.querySelectorAll("canvas").length,
        document.getElementById("draw").disabled]));
    }
    return said;
    """
    urls = [f"{damaged.address}/{number}/" for number in range(len(CASES))]
    seen = chromium.visit(code, {"urls": urls}, serviceWorkers="block")
    assert seen.errors == []
    usual = ("Failed to load resource", "integrity", "blocked by Playwright")
    noise = [line for line in seen.console if not any(part in line for part in usual)]
    assert noise == []
    wrong = [
        (name, alert, images, disabled)
        for (name, (_, text)), (alert, images, disabled) in zip(CASES.items(), seen.value, strict=True)
        if text not in alert or "\n" in alert or images != 0 or not disabled
    ]
    assert not wrong, "\n".join(map(str, wrong))
