"""Packages of students that predict v or x_0, end at zero SNR, or have one branch and few steps: served, or refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from dashdeploy import stages
from dashdeploy.diffusion import noise, sampling
from dashdeploy.errors import UserError
from dashdeploy.packages.schema import Package, Triton
from dashdeploy.packages.stage import write_package
from dashdeploy.recipe.load import load_text
from dashdeploy.runtime.graphs_model import GraphSampler
from dashdeploy.runtime.model import Model
from dashdeploy.runtime.opening import open_path
from dashdeploy.training.distill import distill
from tests.made import SEGMENTS, save_teacher, taught_by

pytestmark = pytest.mark.slow

LOW, HIGH = 0.7, 2.2
"""The range of scales of one branch: rounded to float32, both ends are outside of it."""
# Two steps at a high rate: else the embedding of w, which begins as 0, would count for less than the limits below.
FEW = (
    *SEGMENTS,
    "distill.learning_rate=0.05",
    f"distill.objective.w_min={LOW}",
    f"distill.objective.w_max={HIGH}",
    f"sampling.guidance={HIGH}",
    "bench.quality.guidance=[1.0]",
)
RUNS: dict[str, tuple[Any, bool, tuple[str, ...]]] = {
    "v": ("v_prediction", False, ()),
    "zero-snr": ("v_prediction", True, ("student.prediction_type=sample",)),
    "few-steps": ("v_prediction", True, FEW),
}
"""Name -> what the teacher predicts, whether it ends at zero SNR, what the recipe says beside."""
TARGET = """
name: onnx-cpu
description: t
graphs: [guided, step, sampler]
parity: {batch_sizes: [1, 3], t_bins: 2}
"""
LABELS = [3, 0, 9]
Arrays = dict[str, NDArray[Any]]


@pytest.fixture(scope="module")
def folder(tiny_text: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a student for each of RUNS, and the target's file; do not change them."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("predictions")
    (folder / "target.yaml").write_text(TARGET)
    for name, (taught, zero_snr, more) in RUNS.items():
        teacher = save_teacher(folder / "teachers" / name, taught, zero_snr=zero_snr)
        recipe = load_text(tiny_text, name=name, overrides=[*taught_by(teacher), *more])
        distill(recipe, stages.open_run(folder, name))
    return folder


def package_of(folder: Path, **settings: Any) -> Package:
    """A package of the target in `folder`."""
    made = Triton(threads=2, **settings)
    return Package(name=made.backend, description="t", artifact=str(folder / "target.yaml"), package=made)


@pytest.fixture(scope="module")
def packages(folder: Path) -> dict[str, Path]:
    """Run -> its package for the python backend."""
    return {name: write_package(folder / name, package_of(folder, model_name=name)).folder for name in RUNS}


@pytest.fixture(scope="module")
def artifacts(packages: dict[str, Path]) -> dict[str, Path]:
    """Run -> the artifact in its package."""
    return {name: package / "model_repository" / name / "1" / "artifact" for name, package in packages.items()}


@pytest.fixture(scope="module")
def runtimes(artifacts: dict[str, Path]) -> Iterator[dict[str, Model]]:
    """Run -> the Python runtime on its step graph, as served."""
    opened = {name: open_path(artifact, threads=1) for name, artifact in artifacts.items()}
    for model in opened.values():
        assert isinstance(model.sampler, GraphSampler)
        model.sampler.timesteps = ()  # no plan fits the sampler graph
    yield opened
    for model in opened.values():
        model.close()


@pytest.fixture(scope="module")
def models(
    triton_server: ModuleType, client: ModuleType, packages: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Any]]:
    """Run -> a client of its model; one server has them all, and the half of them is asked by gRPC."""
    repository = tmp_path_factory.mktemp("server") / "model_repository"
    for package in packages.values():
        shutil.copytree(package / "model_repository", repository, dirs_exist_ok=True)
    with triton_server.serve(repository) as server:
        opened = {}
        for number, name in enumerate(RUNS):
            protocol = ("http", "grpc")[number % 2]
            opened[name] = client.Model(getattr(server, protocol), name, protocol=protocol, timeout_s=60.0)
        yield opened
        for model in opened.values():
            model.close()


def expected(model: Model, labels: list[int], w: float | list[float], *, seed: int) -> NDArray[Any]:
    """Images 0, 1, … of the Python runtime; w: one scale, or one for each step."""
    interface, section = model.denoiser.interface, model.sampling
    timesteps = sampling.plan(section, interface.schedule.num_train_timesteps, grids=interface.grids).timesteps
    weights = tuple(w) if isinstance(w, list) else (w,) * len(timesteps)
    start = sampling.initial_noise(seed, 0, len(labels), interface.image_shape)
    plan = sampling.Plan(timesteps, weights, section.clip_sample)
    return model.sample(start, torch.tensor(labels), plan).numpy()


def asked(label: int, w: list[float] | None, *, seed: int, index: int) -> Arrays:
    """A request of one image; w None: the recipe's guidance."""
    arrays: Arrays = {"label": np.array([label])}
    arrays |= {"seed": np.array([seed], np.uint64), "index": np.array([index], np.uint64)}
    return arrays if w is None else arrays | {"guidance": np.array(w, np.float32)}


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("w", [None, [1.5], [2.0, 0.75, 1.0, 1.25], [LOW], [HIGH]])
def test_the_server_gives_the_images_of_the_python_runtime(
    models: dict[str, Any], runtimes: dict[str, Model], name: str, w: list[float] | None
) -> None:
    scales: Any = runtimes[name].sampling.guidance if w is None else w[0] if len(w) == 1 else w
    reference = expected(runtimes[name], LABELS, scales, seed=5)
    for index, label in enumerate(LABELS):
        image = models[name].infer(asked(label, w, seed=5, index=index))
        assert np.abs(image - reference[index]).max() < 1e-4


@pytest.mark.parametrize("name", RUNS)
def test_each_image_of_a_request_has_its_own_scale(
    models: dict[str, Any], runtimes: dict[str, Model], name: str
) -> None:
    model, scales = models[name], [LOW, 1.3, HIGH]
    tensors = []
    for tensor, array, kind in (
        ("label", np.full((3, 1), 4), "INT64"),
        ("guidance", np.array(scales, np.float32)[:, None], "FP32"),
        ("seed", np.full((3, 1), 5, np.uint64), "UINT64"),
    ):
        tensors.append(model.protocol.InferInput(tensor, list(array.shape), kind))
        tensors[-1].set_data_from_numpy(array)
    images = model.client.infer(name, tensors).as_numpy("image")
    for image, w in zip(images, scales, strict=True):
        assert np.abs(image - expected(runtimes[name], [4], w, seed=5)[0]).max() < 1e-4
    assert np.abs(images[0] - images[2]).max() > 1e-3  # the scale counts


@pytest.mark.parametrize("w", ["2.3", "0.69", "1,1,1,5"])
def test_the_client_asks_for_no_scale_out_of_the_range(
    models: dict[str, Any], client: ModuleType, monkeypatch: pytest.MonkeyPatch, w: str
) -> None:
    monkeypatch.setattr(client, "Model", lambda *_, **__: models["few-steps"])
    with pytest.raises(
        SystemExit, match=rf"^error: guidance must be within {LOW} … {HIGH}: the student has one branch"
    ):
        client.draw(client.options().parse_args(["--guidance", w]))


OUTSIDE = f"guidance must be within {LOW} … {HIGH}: the student has one branch, trained for these"


@pytest.mark.parametrize(
    ("w", "message"),
    [
        ([2.3], OUTSIDE),
        ([0.69], OUTSIDE),
        ([0.0], OUTSIDE),
        ([1.0, 1.0, 1.0, 5.0], OUTSIDE),
        ([np.nan], "guidance must be finite and not negative"),
        ([1.0, 1.0], "one for each of the 4 steps, got shape [2]"),
        ([1.0, 1.0, 1.0], "one for each of the 4 steps, got shape [3]"),
    ],
)
def test_what_one_branch_was_not_trained_for_is_refused(models: dict[str, Any], w: list[float], message: str) -> None:
    with pytest.raises(InferenceServerException) as caught:
        models["few-steps"].infer(asked(1, w, seed=0, index=0))
    assert message in str(caught.value) and "Traceback" not in str(caught.value)


def test_two_branches_take_any_scale(models: dict[str, Any], runtimes: dict[str, Model]) -> None:
    image = models["v"].infer(asked(1, [9.0], seed=0, index=0))
    assert np.abs(image - expected(runtimes["v"], [1], 9.0, seed=0)[0]).max() < 1e-4


def test_the_artifacts_are_what_they_are_called(artifacts: dict[str, Path]) -> None:
    told = {name: json.loads((folder / stages.MANIFEST).read_text())["artifact"] for name, folder in artifacts.items()}
    assert [a["prediction_type"] for a in told.values()] == ["v_prediction", "sample", "v_prediction"]
    assert [a["betas"][-1] == 1 for a in told.values()] == [False, True, True]
    assert [a["branches"] for a in told.values()] == [2, 2, 1]
    few = told["few-steps"]
    assert few["guidance_range"] == [LOW, HIGH] and [len(grid) for grid in few["grids"]] == [4, 2]
    assert few["sampling"]["timesteps"] == few["grids"][0]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", RUNS)
def test_the_model_draws_the_same_without_a_server(
    model_sampler: ModuleType, artifacts: dict[str, Path], runtimes: dict[str, Model], name: str, threads: int
) -> None:
    sampler = model_sampler.Sampler(artifacts[name], threads=threads)
    start = noise.normal(7, 0, 3, 64).reshape(3, 1, 8, 8)
    images, bad = sampler(start, np.array(LABELS), np.full((3, 4), 1.5, np.float32))
    sampler.close()
    assert bad.tolist() == [-1] * 3
    assert np.abs(images - expected(runtimes[name], LABELS, 1.5, seed=7)).max() < 1e-4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"timesteps": [900, 600], "guidance_scales": [1.0] * 2}, r"timesteps: must be one of grids, of 4, 2 steps"),
        ({"timesteps": [900, 600, 300, 0]}, r"timesteps: must be one of grids, of 4, 2 steps"),
        ({"guidance_scales": [1.0, 1.0, 1.0, 2.5]}, r"guidance_scales: must be within 0\.7 … 2\.2, got"),
        ({"solver": "dpmpp_2m"}, r"samples with dpmpp_2m, and this model runs only ddim"),
    ],
)
def test_the_model_refuses_a_plan_that_the_student_was_not_trained_for(
    model_sampler: ModuleType, artifacts: dict[str, Path], tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    copy = Path(shutil.copytree(artifacts["few-steps"], tmp_path / "artifact"))
    path = copy / stages.MANIFEST
    manifest = json.loads(path.read_text())
    manifest["artifact"]["sampling"] |= change
    path.write_text(json.dumps(manifest))
    (copy / stages.SIDECAR).write_bytes(stages.sidecar_text(path))
    with pytest.raises(ValueError, match=message):
        model_sampler.Sampler(copy, threads=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_inference_steps": 3}, r"3 steps at the timesteps .*: this model was trained for 4 or 2 steps"),
        ({"guidance": 4.0}, r"guidance 4 is out of range: .* trained for 0\.7 … 2\.2"),
        ({"solver": "dpmpp_2m"}, r"solver dpmpp_2m: .* not trained for it\. Take ddim, and 4 or 2 steps"),
    ],
)
@pytest.mark.parametrize("backend", ["python", "onnxruntime_onnx"])
def test_no_package_is_written_of_what_the_student_was_not_trained_for(
    folder: Path, runtimes: dict[str, Model], tmp_path: Path, backend: str, change: dict[str, Any], message: str
) -> None:
    run = Path(shutil.copytree(folder / "few-steps", tmp_path / "few-steps"))
    shutil.rmtree(run / "packages")
    section = runtimes["few-steps"].sampling.model_copy(update=change)
    with pytest.raises(UserError, match=message):
        write_package(run, package_of(folder, backend=backend), sampling=section)
    assert not (run / "packages").exists()


def test_the_package_of_another_number_of_steps_has_its_timesteps(
    folder: Path, runtimes: dict[str, Model], model_sampler: ModuleType, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(folder / "few-steps", tmp_path / "few-steps"))
    two = runtimes["few-steps"].sampling.model_copy(update={"num_inference_steps": 2})
    package = write_package(run, package_of(folder, model_name="m"), sampling=two)
    sampler = model_sampler.Sampler(package.folder / "model_repository" / "m" / "1" / "artifact", threads=1)
    sampler.close()
    assert tuple(sampler.timesteps) == runtimes["few-steps"].denoiser.interface.grids[1]
    assert package.figures["num_inference_steps"] == 2


def test_the_sampler_graph_of_few_steps_is_packaged_and_its_readme_gives_the_range(
    folder: Path, runtimes: dict[str, Model]
) -> None:
    package = write_package(folder / "few-steps", package_of(folder, backend="onnxruntime_onnx", model_name="g")).folder
    session = onnxruntime.InferenceSession(str(package / "model_repository" / "g" / "1" / "model.onnx"))
    feeds = {
        "noise": noise.normal(7, 0, 3, 64).reshape(3, 1, 8, 8),
        "y": np.array(LABELS),
        "w": np.full((3, 4), 1.5, np.float32),
    }
    (images,) = session.run(None, feeds)
    assert np.abs(images - expected(runtimes["few-steps"], LABELS, 1.5, seed=7)).max() < 1e-3
    assert f"{LOW} … {HIGH}" in (package / "README.md").read_text()
