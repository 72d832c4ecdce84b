"""A student of latents in a Triton server: images, decoded in the server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from dashdeploy import stages
from dashdeploy.diffusion.sampling import initial_noise, plan
from dashdeploy.packages.schema import Package, Triton
from dashdeploy.packages.stage import write_package
from dashdeploy.runtime.opening import open_path
from tests.triton.conftest import load

pytestmark = pytest.mark.slow

LABELS = [2, 0, 1]


@pytest.fixture(scope="module")
def served(latent_folder: Path, latent_run: Path) -> stages.Stage:
    made = Triton(threads=2, model_name="latent")
    target = str(latent_folder / "onnx.yaml")
    return write_package(latent_run, Package(name="python", description="t", artifact=target, package=made))


@pytest.fixture(scope="module")
def model(triton_server: ModuleType, client: ModuleType, served: stages.Stage) -> Iterator[Any]:
    with triton_server.serve(served.folder / "model_repository") as server:
        opened = client.Model(server.http, "latent", protocol="http", timeout_s=60.0)
        yield opened
        opened.close()


def test_the_server_gives_decoded_images(model: Any, served: stages.Stage) -> None:
    assert model.image_shape == [3, 16, 16]
    with open_path(served.folder / "model_repository" / "latent" / "1" / "artifact", threads=1) as python:
        interface = python.denoiser.interface
        run = plan(python.sampling, interface.schedule.num_train_timesteps)
        noise = initial_noise(5, 0, len(LABELS), interface.noise_shape(run))
        expected = python.sample(noise, torch.tensor(LABELS), run).numpy()
    for index, label in enumerate(LABELS):
        image = model.infer(model.request(label, [2.0], seed=5, index=index))
        assert np.abs(image - expected[index]).max() < 1e-3


def test_the_step_scheduler_decodes_images_and_previews(served: stages.Stage, model_scheduler: ModuleType) -> None:
    version = served.folder / "model_repository" / "latent" / "1"
    sampler = load("latent_sampler", version / "sampler.py").Sampler(version / "artifact", threads=2)
    plan = sampler.plans.plan()
    wanted = [model_scheduler.Wanted(label, plan, sampler.image_shape, 5, i, None) for i, label in enumerate(LABELS)]
    found: list[Any] = []
    shown: list[Any] = []
    scheduler = model_scheduler.StepScheduler(sampler.move, sampler.finish, places=2)
    scheduler.submit(
        model_scheduler.Request(
            wanted, found.extend, pytest.fail, lambda *told: shown.append(told), preview_every=len(plan.timesteps) - 1
        )
    )
    while scheduler.run_step():
        pass
    expected = sampler.draw([one.image() for one in wanted])
    sampler.close()
    assert [number for number, _, _ in shown] == [0, 1, 2] and found[0].shape == (3, 16, 16)
    for image, alone, (_, _, preview) in zip(found, expected, shown, strict=True):
        assert np.abs(image - alone).max() <= 1e-5
        assert preview.shape == image.shape and np.abs(preview).max() <= 1
