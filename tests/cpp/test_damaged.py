"""Damaged and mismatched artifact folders: a status and a line of text for each, no crash, under the sanitizers.

A case that edits the manifest seals it again: then the content is refused, not the hash.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from building import run
from conftest import seal

from dashdeploy.stages import file_sha256
from tests.records import with_value

pytestmark = pytest.mark.slow

NOT_FOUND, DAMAGED, UNSUPPORTED, BACKEND = "not found", "damaged", "unsupported", "backend error"
CODES = {NOT_FOUND: 12, DAMAGED: 13, UNSUPPORTED: 14, BACKEND: 15}
Damage = Callable[[Path], None]
CASES: dict[str, tuple[Damage, str, str]] = {}


def case(name: str, status: str, text: str) -> Callable[[Damage], Damage]:
    def add(damage: Damage) -> Damage:
        assert name not in CASES
        CASES[name] = (damage, status, text)
        return damage

    return add


def edited(name: str, path: str, value: Any, status: str, text: str) -> None:
    """A case that sets one value of the manifest; `path` is its keys with blanks between."""

    def damage(folder: Path) -> None:
        manifest = json.loads((folder / "manifest.json").read_text())
        seal(folder, json.dumps(with_value(manifest, path.split(), value)).encode())

    case(name, status, text)(damage)


def text_of(name: str, change: Callable[[bytes], bytes], status: str, text: str, *, sealed: bool = True) -> None:
    """A case that changes the manifest's bytes."""

    def damage(folder: Path) -> None:
        path = folder / "manifest.json"
        path.write_bytes(change(path.read_bytes()))
        if sealed:
            seal(folder)

    case(name, status, text)(damage)


def listed(folder: Path, name: str) -> None:
    """Put a file's present content into the manifest."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][name] = file_sha256(folder / name)
    seal(folder, json.dumps(manifest).encode())


# The folder and its files
case("no folder", NOT_FOUND, "no such folder")(shutil.rmtree)
case("a file in the folder's place", NOT_FOUND, "no such folder")(
    lambda folder: (shutil.rmtree(folder), folder.write_text("x"))[0]
)
case("no manifest", NOT_FOUND, "not an artifact (it has no manifest.json)")(
    lambda folder: (folder / "manifest.json").unlink()
)
case("no sidecar", DAMAGED, "it holds the SHA-256 of manifest.json")(
    lambda folder: (folder / "manifest.json.sha256").unlink()
)
case("an empty sidecar", DAMAGED, "damaged or changed since it was made")(
    lambda folder: (folder / "manifest.json.sha256").write_bytes(b"")
)
case("a sidecar of megabytes", DAMAGED, "expected at most 4096")(
    lambda folder: (folder / "manifest.json.sha256").write_bytes(b"0" * 5_000_000)
)
case("a missing graph", NOT_FOUND, "step.xml: no such file")(lambda folder: (folder / "step.xml").unlink())
case("missing weights", NOT_FOUND, "step.bin: no such file")(lambda folder: (folder / "step.bin").unlink())
case("a folder in a file's place", NOT_FOUND, "cond.xml: no such file")(
    lambda folder: ((folder / "cond.xml").unlink(), (folder / "cond.xml").mkdir())[0]
)


@case("truncated weights", DAMAGED, "step.bin: damaged or changed")
def _(folder: Path) -> None:
    with (folder / "step.bin").open("r+b") as file:
        file.truncate(1000)


@case("a flipped bit", DAMAGED, "guided.bin: damaged or changed")
def _(folder: Path) -> None:
    data = bytearray((folder / "guided.bin").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "guided.bin").write_bytes(data)


@case("an appended byte", DAMAGED, "step.xml: damaged or changed")
def _(folder: Path) -> None:
    with (folder / "step.xml").open("ab") as file:
        file.write(b"\n")


@case("an empty graph that is vouched for", DAMAGED, "step.xml: not a graph of OpenVINO")
def _(folder: Path) -> None:
    (folder / "step.xml").write_bytes(b"")
    listed(folder, "step.xml")


@case("a graph that is no XML", DAMAGED, "step.xml: not a graph of OpenVINO")
def _(folder: Path) -> None:
    (folder / "step.xml").write_bytes(b"\x7fELF" * 100)
    listed(folder, "step.xml")


@case("vouched-for weights that are too short", BACKEND, "OpenVINO, reading the graphs")
def _(folder: Path) -> None:
    (folder / "step.bin").write_bytes((folder / "step.bin").read_bytes()[:64])
    listed(folder, "step.bin")


@case("the cond graph in the step graph's place", DAMAGED, "step.xml: its inputs and outputs are not what")
def _(folder: Path) -> None:
    for suffix in ("xml", "bin"):
        shutil.copy(folder / f"cond.{suffix}", folder / f"step.{suffix}")
        listed(folder, f"step.{suffix}")


@case("another backend", UNSUPPORTED, "for the backend 'onnxruntime', and this library was built with: openvino")
def _(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["artifact"].update(backend="onnxruntime", providers=["CPUExecutionProvider"])
    seal(folder, json.dumps(manifest).encode())


@case("a link to another content", DAMAGED, "step.bin: damaged or changed")
def _(folder: Path) -> None:
    (folder / "step.bin").unlink()
    (folder / "step.bin").symlink_to(folder / "guided.bin")


@case("a link to itself", NOT_FOUND, "step.bin: no such file")
def _(folder: Path) -> None:
    (folder / "step.bin").unlink()
    (folder / "step.bin").symlink_to("step.bin")


# The manifest's text
text_of("an edited manifest", lambda t: t.replace(b'"seed"', b'"seeD"'), DAMAGED, "since it was made", sealed=False)
text_of("an empty manifest", lambda t: b"", DAMAGED, "not JSON")
text_of("a truncated manifest", lambda t: t[: len(t) // 2], DAMAGED, "not JSON")
text_of("invalid UTF-8", lambda t: t.replace(b'"stage": "', b'"stage": "\xff\xfe\xc0'), DAMAGED, "not JSON")
text_of("invalid UTF-8 in a message", lambda t: b"\xf0\x28\x8c\x28" + t, DAMAGED, "not JSON")
text_of("zero bytes", lambda t: bytes(5000), DAMAGED, "not JSON")
text_of("a list", lambda t: b"[1, 2]", DAMAGED, "the manifest must be an object")
text_of("a number", lambda t: b"7", DAMAGED, "the manifest must be an object")
text_of("deep nesting", lambda t: b"[" * 200_000 + b"]" * 200_000, DAMAGED, "the manifest must be an object")
text_of("a manifest of 70 MB", lambda t: t + b" " * 70_000_000, DAMAGED, "bytes; expected at most 67108864")
text_of("not a number", lambda t: t.replace(b'"format": 5', b'"format": NaN'), DAMAGED, "not JSON")

# Its values
edited("an older format", "format", 4, UNSUPPORTED, "format is 4, and this library reads 5. Export the artifact again")
edited("a later format", "format", 6, UNSUPPORTED, "format is 6, and this library reads 5. Export the artifact again")
edited("a format in words", "format", "4", DAMAGED, "format must be a whole number")
edited("no artifact", "artifact", KeyError, DAMAGED, "the manifest has no artifact")
edited("no files", "files", KeyError, DAMAGED, "the manifest has no files")
edited("no providers", "artifact backend", "onnxruntime", DAMAGED, "artifact has no providers")
edited("an unknown backend", "artifact backend", "abacus", UNSUPPORTED, "backend is 'abacus'; known: onnxruntime")
edited("huge images", "artifact image_shape", [60000, 60000, 60000], DAMAGED, "image_shape has more than")
edited("sizes past 64 bits", "artifact image_shape", [2**70, 8, 8], DAMAGED, "image_shape.0 must be")
edited("no channels", "artifact image_shape", [0, 8, 8], DAMAGED, "image_shape.0 must be in 1")
edited("two sides", "artifact image_shape", [8, 8], DAMAGED, "must be (channels, height, width)")
edited("sides unlike the graphs'", "artifact image_shape", [1, 8, 16], DAMAGED, "is not that of image_shape")
edited("a negative number of classes", "artifact num_classes", -4, DAMAGED, "num_classes must be in 1")
edited("too many classes for the names", "artifact num_classes", 11, DAMAGED, "10 names for 11 classes")
edited("another null class", "artifact null_class", 3, DAMAGED, "null_class must be num_classes, 10")
edited("a beta of one", "artifact betas 3", 1.0, DAMAGED, "betas.3 must be between 0 and 1")
edited("a beta in words", "artifact betas 3", "small", DAMAGED, "betas.3 must be a number")
edited("too few betas", "artifact betas", [0.1], DAMAGED, "1 values for 1000 timesteps")
edited("more steps than T", "artifact sampling timesteps", [*range(1000, -1, -1)], DAMAGED, "expected 1 ... 1000")
edited("a step past T", "artifact sampling timesteps 0", 1000, DAMAGED, "timesteps.0 must be in 0 ... 999")
edited("steps that rise", "artifact sampling timesteps 0", 0, DAMAGED, "sampling.timesteps must descend")
edited("a scale too few", "artifact sampling guidance_scales 0", KeyError, DAMAGED, "has 3 values; expected 4 ... 4")
edited("an unknown spacing", "artifact sampling timestep_spacing", "random", DAMAGED, "known: trailing, leading")
edited("another solver", "artifact sampling solver", "dpmpp_2m", UNSUPPORTED, "solver is 'dpmpp_2m'; known: ddim")
edited("fresh noise at any timestep", "artifact sampling solver", "consistency", DAMAGED, "grids is empty")
edited("an unknown guidance", "artifact sampling guidance", {"kind": "magic"}, DAMAGED, "known: tag, interval")
edited("an unknown prediction", "artifact prediction_type", "flow", DAMAGED, "known: epsilon, v_prediction, sample")
edited("another prediction than its graphs'", "artifact prediction_type", "v_prediction", DAMAGED, "name must be v")
edited("a last beta of one", "artifact betas 999", 1.0, DAMAGED, "betas.999 must be between 0 and 1")
edited("three branches", "artifact branches", 3, DAMAGED, "branches must be in 1 ... 2")
edited("one branch without a range", "artifact branches", 1, DAMAGED, "guidance_range is of a student of one branch")
edited("a range of two branches", "artifact guidance_range", [1, 4], DAMAGED, "null of one of two")
edited("other steps than its grids", "artifact grids", [[999, 499]], DAMAGED, "sampling.timesteps must be one of grids")
edited("a grid that rises", "artifact grids", [[1, 2]], DAMAGED, "grids.0 must descend")
edited("a grid past T", "artifact grids", [[1000]], DAMAGED, "grids.0.0 must be in 0 ... 999")
edited("no graphs", "artifact graphs", {}, DAMAGED, "graphs has no guided graph")
edited(
    "an unlisted file", "artifact graphs step file", "other.xml", DAMAGED, "'other.xml', which the graph's files does"
)
edited("a graph outside", "artifact graphs step file", "../step.xml", DAMAGED, "not a file inside of the artifact")
edited("an absolute path", "files /etc/passwd", "0" * 64, DAMAGED, "'/etc/passwd', which is not a file inside")
edited("a path upwards", "files a/../../b", "0" * 64, DAMAGED, "which is not a file inside")
edited("a hash that is none", "files extra", "12", DAMAGED, "is not a SHA-256")
edited("a listed file that is not there", "files extra", "0" * 64, NOT_FOUND, "extra: no such file")
edited("a missing input", "artifact graphs step inputs 4", KeyError, DAMAGED, "step has 4 inputs; expected 5")
edited("inputs in another order", "artifact graphs step inputs 0 name", "t", DAMAGED, "name must be x")
edited("another type", "artifact graphs step inputs 1 dtype", "int32", DAMAGED, "dtype of t must be int64")
edited("another rank", "artifact graphs step inputs 0 shape", ["batch"], DAMAGED, "shape of x has 1 dimensions")
edited("a timestep past T", "artifact sampler timesteps 0", 1000, DAMAGED, "timesteps.0 must be in 0 ... 999")
edited("fewer timesteps than scales", "artifact sampler timesteps 0", KeyError, DAMAGED, "has 4 values; expected 3")
edited("a clip in words", "artifact sampling clip_sample", "yes", DAMAGED, "clip_sample must be true or false")


def test_there_are_fifty_of_them() -> None:
    assert len(CASES) >= 50


@pytest.fixture(scope="module")
def damaged(artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A damaged folder for each case."""
    folders = {}
    for name, (damage, _, _) in CASES.items():
        folder = folders[name] = tmp_path_factory.mktemp("damaged") / "artifact"
        shutil.copytree(artifact, folder, copy_function=os.link)
        for path in ("manifest.json", "manifest.json.sha256", "step.xml", "step.bin", "guided.bin", "cond.xml"):
            (folder / path).unlink()  # these are changed: not through a link
            shutil.copy(artifact / path, folder / path)
        damage(folder)
    return folders


@pytest.fixture(scope="module")
def verdicts(damaged: dict[str, Path], artifact: Path, verdicts_of) -> dict[str, list[str]]:
    """Case -> status and message; the last folder is whole."""
    *of_damaged, of_whole = verdicts_of([*damaged.values(), artifact])
    assert of_whole == ["ok", ""]
    return dict(zip(damaged, of_damaged, strict=True))


@pytest.mark.parametrize("name", CASES)
def test_a_damaged_folder_is_refused_with_its_reason(name: str, verdicts: dict[str, list[str]]) -> None:
    _, expected_status, expected_text = CASES[name]
    status, text = verdicts[name]
    assert (status, expected_text in text) == (expected_status, True), text


@pytest.mark.parametrize("name", ["a missing graph", "a flipped bit", "a later format", "a graph that is no XML"])
def test_the_program_ends_with_a_line_and_the_code_of_the_status(
    name: str, damaged: dict[str, Path], sanitized: Path, sanitizer_environment: dict[str, str]
) -> None:
    _, status, text = CASES[name]
    done = run(sanitized / "sample", damaged[name], "--info", env=sanitizer_environment)
    assert done.stderr.startswith(f"error: {status}: ") and text in done.stderr
    assert (done.returncode, done.stderr.count("\n")) == (CODES[status], 1)


def test_links_are_followed_and_their_content_counts(artifact: Path, tmp_path: Path, verdicts_of) -> None:
    """As in a hub's cache, where each file of a snapshot is a link to a blob elsewhere."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "1"
    shutil.copytree(artifact, blobs)
    snapshot.mkdir(parents=True)
    for path in blobs.iterdir():
        (snapshot / path.name).symlink_to(os.path.relpath(path, snapshot))
    linked = tmp_path / "linked"
    linked.symlink_to(snapshot, target_is_directory=True)
    assert verdicts_of([snapshot, linked]) == [["ok", ""], ["ok", ""]]
    data = bytearray((blobs / "step.bin").read_bytes())
    data[100] ^= 1
    (blobs / "step.bin").write_bytes(data)
    ((status, text),) = verdicts_of([snapshot])
    assert status == DAMAGED and "step.bin: damaged or changed" in text


def test_an_unharmed_folder_is_taken(artifact: Path, sanitized: Path, sanitizer_environment: dict[str, str]) -> None:
    done = run(sanitized / "sample", artifact, "--info", env=sanitizer_environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert "classes     10" in done.stdout
