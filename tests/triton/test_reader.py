"""The manifest's reader in Triton: it refuses what Python's refuses, names the key, and follows links."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
import torch

import dashdeploy.runtime
from dashdeploy import manifest as manifests
from dashdeploy import signing, stages
from dashdeploy.diffusion import sampling
from dashdeploy.diffusion.noise import normal
from dashdeploy.errors import UserError
from dashdeploy.recipe.schema import GuidanceInterval, Tag
from tests import manifests as made

OF_STUDENT = ("prediction_type", "betas", "branches", "guidance_range", "grids", "sampling", "sampler")


def python_says(text: str) -> str | None:
    try:
        manifests.parse(json.dumps(json.loads(text)), source="m")
    except (UserError, ValueError) as error:
        return str(error)
    return None


def triton_says(reader: ModuleType, text: str) -> str | None:
    try:
        reader.check(json.loads(text))
    except ValueError as error:
        return str(error)
    return None


@pytest.fixture
def artifact(python_package: stages.Stage, tmp_path: Path) -> Path:
    """A copy of the artifact in the package."""
    source = python_package.folder / "model_repository" / "tiny" / "1" / "artifact"
    return Path(shutil.copytree(source, tmp_path / "artifact"))


@pytest.fixture
def sealed(artifact: Path) -> Callable[[dict[str, Any]], Path]:
    """Writes a manifest into the copy, with its SHA-256."""

    def write(manifest: dict[str, Any]) -> Path:
        (artifact / stages.MANIFEST).write_text(json.dumps(manifest))
        (artifact / stages.SIDECAR).write_bytes(stages.sidecar_text(artifact / stages.MANIFEST))
        return artifact

    return write


def is_of_student(mutation: Any) -> bool:
    """Whether it changes what a student was trained for, or what must lie within that."""
    return len(mutation.path) > 1 and mutation.path[0] == "artifact" and mutation.path[1] in OF_STUDENT


def manifest_of(folder: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((folder / stages.MANIFEST).read_text())
    return manifest


@pytest.mark.slow
def test_both_readers_refuse_the_same_manifests_and_triton_s_reason_is_a_line(
    model_reader: ModuleType, artifact: Path
) -> None:
    valid = made.shortened(manifest_of(artifact))
    few = made.of_few_steps(valid)
    for whole in (
        valid,
        few,
        made.for_tensorrt(valid),
        *(made.with_guidance(valid, g) for g in (Tag(), GuidanceInterval())),
    ):
        assert triton_says(model_reader, json.dumps(whole)) is python_says(json.dumps(whole)) is None
    for number in (True, 1.0):  # equal to 1, and not written as it
        few["artifact"]["branches"] = number
        assert "artifact.branches: must be" in str(python_says(json.dumps(few)))
        assert "artifact.branches: must be" in str(triton_says(model_reader, json.dumps(few)))
    few["artifact"]["branches"] = 1
    differ, refused = [], 0
    mutations = (*made.mutations(valid), *(m for m in made.corpus().mutations(few, made.schema()) if is_of_student(m)))
    for mutation in mutations:
        python, triton = python_says(mutation.text), triton_says(model_reader, mutation.text)
        refused += triton is not None
        if (python is None) != (triton is None):
            differ.append((mutation.path, mutation.kind, python, triton))
        assert "\n" not in (triton or ""), triton
        if triton and mutation.kind in ("as NoneType", "missing"):
            assert made.place_of(mutation.path).rstrip(".*").rsplit(".", 1)[-1] in triton
    assert not differ, "\n".join(map(str, differ[:40]))
    assert refused > 1000


def test_a_manifest_of_the_package_opens(model_reader: ModuleType, artifact: Path) -> None:
    assert model_reader.read_manifest(artifact) == manifest_of(artifact)


def test_content_is_what_counts_so_a_link_is_followed(
    model_sampler: ModuleType, artifact: Path, tmp_path: Path
) -> None:
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    for path in list(artifact.iterdir()):
        path.rename(blobs / path.name)
        path.symlink_to(blobs / path.name)
    sampler = model_sampler.Sampler(artifact, threads=1)
    sampler.close()
    data = bytearray((blobs / "step.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (blobs / "step.onnx").write_bytes(data)
    with pytest.raises(ValueError, match=r"step\.onnx: damaged or changed since it was made"):
        model_sampler.Sampler(artifact, threads=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m["artifact"]["graphs"]["step"].update(file="../step.onnx"), r"graphs\.step\.file: must match"),
        (lambda m: m["artifact"]["graphs"]["step"].update(file="/step.onnx"), r"graphs\.step\.file: must match"),
        (lambda m: m["artifact"]["graphs"]["step"].update(file="other.onnx"), r"graphs\.step\.files: must list"),
        (lambda m: m["files"].pop("step.onnx"), r"graphs\.step\.files: must be in the manifest's files"),
        (lambda m: m["files"].update({"../x": "0" * 64}), r"files\.'\.\./x': must match"),
        (lambda m: m["files"].update({"gone.bin": "0" * 64}), r"gone\.bin: cannot be read"),
        (lambda m: m["artifact"]["betas"].__setitem__(3, 1.0), r"artifact\.betas\.3: must be below 1, got 1\.0"),
        (lambda m: m["artifact"]["betas"].__setitem__(999, 1), r"artifact\.betas\.999: must be below 1 of a student"),
        (lambda m: m["artifact"]["betas"].__setitem__(3, 1.5), r"artifact\.betas\.3: is past its maximum, 1"),
        (lambda m: m["artifact"]["sampling"].pop("clip_sample"), r"artifact\.sampling\.clip_sample: is missing"),
        (lambda m: m["artifact"].update(classes=["a"]), r"artifact\.classes: must have 10 names"),
        (lambda m: m["artifact"]["graphs"].pop("step"), r"has no step graph"),
    ],
)
def test_a_graph_is_a_listed_file_inside_and_the_manifest_makes_sense(
    model_sampler: ModuleType, artifact: Path, sealed: Callable[..., Path], change: Any, message: str
) -> None:
    manifest = manifest_of(artifact)
    change(manifest)
    with pytest.raises(ValueError, match=message) as caught:
        model_sampler.Sampler(sealed(manifest), threads=1)
    assert "\n" not in str(caught.value)


def test_weights_beside_the_graph_are_loaded_if_the_manifest_lists_them(
    model_sampler: ModuleType, artifact: Path, sealed: Callable[..., Path]
) -> None:
    y, w = np.array([1, 2]), np.full((2, 4), 2.0, np.float32)
    noise = np.random.default_rng(0).standard_normal((2, 1, 8, 8)).astype(np.float32)
    before = model_sampler.Sampler(artifact, threads=1)
    expected, _ = before(noise, y, w)
    path = artifact / "step.onnx"
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="weights.bin")
    manifest = manifest_of(artifact)
    manifest["files"]["step.onnx"] = stages.file_sha256(path)
    with pytest.raises(ValueError, match=r"step\.onnx: its weights lie in 'weights\.bin', which is none of its files"):
        model_sampler.Sampler(sealed(manifest), threads=1)
    manifest["files"]["weights.bin"] = stages.file_sha256(artifact / "weights.bin")
    manifest["artifact"]["graphs"]["step"]["files"].append("weights.bin")
    after = model_sampler.Sampler(sealed(manifest), threads=1)
    assert np.array_equal(after(noise, y, w)[0], expected)
    for sampler in (before, after):
        sampler.close()


def test_the_model_draws_with_the_manifest_s_solver(
    model_sampler: ModuleType, artifact: Path, sealed: Callable[..., Path]
) -> None:
    manifest = manifest_of(artifact)
    manifest["artifact"]["sampling"]["solver"] = "dpmpp_2m"
    folder, start = sealed(manifest), normal(1, 0, 3, 64).reshape(3, 1, 8, 8)
    sampler = model_sampler.Sampler(folder, threads=1)
    images, bad = sampler(start, np.arange(3), np.full((3, 4), 2.0, np.float32))
    sampler.close()
    with dashdeploy.runtime.open(folder, threads=1) as model:
        plan = sampling.plan(model.sampling, 1000)
        expected = model.sample(torch.from_numpy(start), torch.arange(3), plan).numpy()
    assert plan.solver == "dpmpp_2m" and bad.tolist() == [-1] * 3
    assert np.abs(images - expected).max() < 1e-4


def test_with_a_key_only_what_it_has_signed_is_read(model_reader: ModuleType, artifact: Path, tmp_path: Path) -> None:
    secret, public = signing.make_key_pair(tmp_path / "mine")
    _, other = signing.make_key_pair(tmp_path / "other")
    with pytest.raises(ValueError, match=r"manifest\.json\.minisig: missing, and with a public key only"):
        model_reader.read_manifest(artifact, public_key=str(public))
    signing.sign(stages.read_stage(artifact), signing.read_secret_key(secret))
    text = public.read_text().splitlines()[1]
    assert model_reader.read_manifest(artifact, public_key=text) == manifest_of(artifact)
    with pytest.raises(ValueError, match=r"signed by the key [0-9A-F]{16}, and the public key given is"):
        model_reader.read_manifest(artifact, public_key=str(other))


def test_a_step_that_is_not_finite_is_named_for_its_image_alone(model_sampler: ModuleType, artifact: Path) -> None:
    sampler = model_sampler.Sampler(artifact, threads=2)
    noise = np.random.default_rng(0).standard_normal((3, 1, 8, 8)).astype(np.float32)
    w = np.full((3, 4), 2.0, np.float32)
    noise[1] = 3e38
    images, bad = sampler(noise, np.array([1, 2, 3]), w)
    sampler.close()
    assert bad.tolist() == [-1, 0, -1]
    assert np.isfinite(images[[0, 2]]).all() and np.abs(images[[0, 2]]).max() <= 1
