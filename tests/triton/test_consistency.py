"""Packages of a consistency student: noise for each step, and the images of the Python runtime."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from google.protobuf import text_format
from numpy.typing import NDArray
from tritonclient.grpc import model_config_pb2 as pb
from tritonclient.utils import InferenceServerException

from dashdeploy import stages
from dashdeploy.diffusion import noise, sampling
from dashdeploy.packages import schema
from dashdeploy.packages.stage import write_package
from dashdeploy.recipe.load import load_text
from dashdeploy.runtime.opening import open_path
from dashdeploy.training.distill import distill
from tests.made import CONSISTENCY, save_teacher, taught_by
from tests.triton.conftest import load

pytestmark = pytest.mark.slow

LABELS, SEED, W = np.arange(5), 3, 2.5
Drawn = Callable[[NDArray[np.float32]], NDArray[np.float32]]


@pytest.fixture(scope="module")
def packages(tiny_text: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Triton's backend -> the package of one consistency student."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("consistency")
    teacher = save_teacher(folder / "teacher", "v_prediction", zero_snr=True)
    run, made = stages.open_run(folder, "run"), {}
    distill(load_text(tiny_text, name="t", overrides=[*taught_by(teacher), *CONSISTENCY]), run)
    for name in ("triton", "triton-onnxruntime"):
        package = schema.load(name)
        assert isinstance(package, schema.Package)
        settings = package.package.model_copy(update={"threads": 2, "model_name": "few"})
        made[settings.backend] = write_package(run, package.model_copy(update={"package": settings})).folder
    return made


@pytest.fixture(scope="module")
def artifact(packages: dict[str, Path]) -> Path:
    return packages["python"] / "model_repository" / "few" / "1" / "artifact"


@pytest.fixture(scope="module")
def drawn(artifact: Path) -> Iterator[Drawn]:
    """What the Python runtime makes of noise (B, N, C, H, W) for the first labels."""
    with open_path(artifact, threads=1) as model:
        interface = model.denoiser.interface
        run = sampling.plan(model.sampling, 1000, scale=W, grids=interface.grids)

        def draw(z: NDArray[np.float32]) -> NDArray[np.float32]:
            return model.sample(torch.from_numpy(z), torch.from_numpy(LABELS[: len(z)]), run).numpy()

        yield draw


def model_grid(package: Path, steps: int) -> list[int]:
    """The timesteps of the artifact's grid of so many."""
    artifact = stages.read_manifest(package / "model_repository" / "few" / "1" / "artifact")["artifact"]
    return next(grid for grid in artifact["grids"] if len(grid) == steps)


def of_seed(count: int) -> NDArray[np.float32]:
    return noise.normal(SEED, 0, count, 64, steps=4).reshape(count, 4, 1, 8, 8)


@pytest.mark.parametrize("backend", ["python", "onnxruntime_onnx"])
def test_the_config_asks_for_a_noise_of_each_step(packages: dict[str, Path], backend: str) -> None:
    path = packages[backend] / "model_repository" / "few" / "config.pbtxt"
    config = text_format.Parse(path.read_text(), pb.ModelConfig())
    (dims,) = (list(tensor.dims) for tensor in config.input if tensor.name == "noise")
    # model.py makes 4 steps or 2, the graph 4.
    assert dims == [-1 if backend == "python" else 4, 1, 8, 8] and list(config.output[0].dims) == [1, 8, 8]


@pytest.mark.parametrize("count", [1, 5])
def test_the_model_draws_the_images_of_the_python_runtime(artifact: Path, drawn: Drawn, count: int) -> None:
    sampler = load("consistency_sampler", artifact.parent / "sampler.py").Sampler(artifact, threads=2)
    z = of_seed(count)
    images, bad = sampler(z, LABELS[:count], np.full((count, 4), W, np.float32))
    np.testing.assert_allclose(images, drawn(z), rtol=0, atol=1e-4)
    assert bad.tolist() == [-1] * count
    z[-1, 3] *= 2  # what comes before the last step
    other, _ = sampler(z, LABELS[:count], np.full((count, 4), W, np.float32))
    assert np.abs(other[-1] - images[-1]).max() > 1e-2
    sampler.close()


def test_the_scheduler_mixes_their_grids_and_ages(artifact: Path, model_scheduler: ModuleType) -> None:
    sampler = load("consistency_sampler", artifact.parent / "sampler.py").Sampler(artifact, threads=1)
    wanted = []
    for i in range(12):
        plan = sampler.plans.plan(steps=(4, 2)[i % 2], scales=np.full(1, W, np.float32))
        wanted.append(model_scheduler.Wanted(i % 10, plan, sampler.image_shape, SEED, i, None))
    found: dict[int, Any] = {}
    shown: list[int] = []
    scheduler = model_scheduler.StepScheduler(sampler.move, sampler.finish, places=5)
    for i, one in enumerate(wanted):
        scheduler.submit(
            model_scheduler.Request(
                *([one], lambda images, i=i: found.update({i: images[0]}), pytest.fail),
                on_preview=lambda number, step, x_0: shown.append(step),
                preview_every=1,
            )
        )
        scheduler.run_step()
    while scheduler.run_step():
        pass
    sampler.close()
    assert sorted(shown) == [1] * 12 + [2] * 6 + [3] * 6
    with open_path(artifact, threads=1) as model:
        for i, one in enumerate(wanted):
            plan = sampling.Plan(one.plan.timesteps, (W,) * len(one.plan.timesteps), True, "consistency")
            z = sampling.initial_noise(SEED, i, 1, model.denoiser.interface.noise_shape(plan))
            assert np.abs(found[i] - model.sample(z, torch.tensor([i % 10]), plan)[0].numpy()).max() < 1e-4


def test_the_client_sends_the_noise_that_the_sampler_graph_takes(packages: dict[str, Path], drawn: Drawn) -> None:
    folder = packages["onnxruntime_onnx"]
    client = load("consistency_client", folder / "client.py")
    sys.modules.pop("noise", None)
    config = text_format.Parse((folder / "model_repository" / "few" / "config.pbtxt").read_text(), pb.ModelConfig())
    asking = client.Model.__new__(client.Model)  # without a server, as it reads the config
    asking.inputs = {tensor.name: list(tensor.dims) for tensor in config.input}
    asking.image_shape = list(config.output[0].dims)
    asked = [asking.request(int(label), [W], seed=SEED, index=i) for i, label in enumerate(LABELS)]
    feeds = {name: np.stack([request[name] for request in asked]) for name in ("noise", "w")} | {"y": LABELS}
    session = onnxruntime.InferenceSession(str(folder / "model_repository" / "few" / "1" / "model.onnx"))
    np.testing.assert_allclose(session.run(None, feeds)[0], drawn(of_seed(5)), rtol=0, atol=1e-4)


def test_the_readers_of_the_manifest_know_its_noise(artifact: Path, model_reader: ModuleType) -> None:
    manifest = stages.read_manifest(artifact)
    model_reader.check(manifest)
    sampler = manifest["artifact"]["graphs"]["sampler"]["inputs"]
    assert sampler[0] == {"name": "noise", "dtype": "float32", "shape": ["batch", 4, 1, 8, 8]}
    sampler[0]["shape"].pop(1)
    with pytest.raises(ValueError, match=r"artifact\.graphs\.sampler\.inputs: must be"):
        model_reader.check(manifest)
    sampler[0]["shape"].insert(1, 4)
    manifest["artifact"]["grids"] = []
    with pytest.raises(ValueError, match=r"artifact\.sampling\.solver: must be of a few-step student"):
        model_reader.check(manifest)


def test_a_server_draws_from_a_seed_or_from_the_noise_of_each_step(
    triton_server: ModuleType, packages: dict[str, Path], drawn: Drawn
) -> None:
    client = load("consistency_client", packages["python"] / "client.py")
    sys.modules.pop("noise", None)
    z = of_seed(2)
    expected = drawn(z)
    with triton_server.serve(packages["python"] / "model_repository") as running:
        model = client.Model(running.http, "few", protocol="http", timeout_s=60.0)
        one: dict[str, Any] = {"label": LABELS[1:2], "guidance": np.full(1, W, np.float32)}
        by_seed = model.infer(model.request(1, [W], seed=SEED, index=1))
        np.testing.assert_allclose(by_seed, expected[1], rtol=0, atol=1e-4)
        np.testing.assert_allclose(model.infer(one | {"noise": z[1]}), expected[1], rtol=0, atol=1e-4)
        two = sampling.Plan(tuple(model_grid(packages["python"], 2)), (W,) * 2, True, "consistency")
        with open_path(packages["python"] / "model_repository" / "few" / "1" / "artifact", threads=1) as python:
            other = python.sample(torch.from_numpy(z[1:2, :2]), torch.tensor([1]), two).numpy()
        given = one | {"noise": z[1, :2], "steps": np.array([2])}
        np.testing.assert_allclose(model.infer(given), other[0], rtol=0, atol=1e-4)
        with pytest.raises(InferenceServerException, match="noise must be of each of the 4 steps, got 2"):
            model.infer(one | {"noise": z[1, :2]})
        with pytest.raises(InferenceServerException, match="shape"):
            model.infer(one | {"noise": z[1, 0]})
        model.close()
