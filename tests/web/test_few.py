"""The library with what is not plain: latents and their decoder, a student of few steps and the solver consistency."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dashdeploy import stages
from dashdeploy.diffusion.sampling import initial_noise, plan
from dashdeploy.recipe.load import load_text
from dashdeploy.runtime.opening import open_path
from dashdeploy.training.distill import distill
from tests.latent import TARGET
from tests.made import CONSISTENCY, save_teacher, taught_by
from tests.web.conftest import Answers, packaged

pytestmark = pytest.mark.slow

Ask = Callable[..., Answers]


def images_of(answer: dict[str, Any]) -> NDArray[np.float32]:
    assert "data" in answer, answer
    return np.frombuffer(base64.b64decode(answer["data"]), np.float32).reshape(answer["shape"])


@pytest.fixture(scope="module")
def consistency(tiny_text: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artifact in the package of a consistency student, of one branch and four or two steps."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("consistency")
    teacher = save_teacher(folder / "teacher", "v_prediction", zero_snr=True)
    run = stages.open_run(folder, "run")
    distill(load_text(tiny_text, name="t", overrides=[*taught_by(teacher), *CONSISTENCY]), run)
    target = folder / "short.yaml"
    target.write_text(TARGET.format(name="short", backend="onnxruntime"))
    return packaged(run, artifact=str(target)) / "artifact"


def test_a_consistency_student_draws_the_images_of_the_python_runtime(consistency: Path, in_node: Ask) -> None:
    labels = [0, 3, 9]
    answers = in_node(
        consistency, *({"sample": {"labels": labels, "w": 2.5, "seed": 3, "steps": n}} for n in (4, 2)), maxBatch=2
    )
    with open_path(consistency, threads=1) as model:
        interface = model.denoiser.interface
        for n, answer in zip((4, 2), answers, strict=True):
            how = model.sampling.model_copy(update={"num_inference_steps": n})
            run = plan(how, 1000, scale=2.5, grids=interface.grids)
            noise = initial_noise(3, 0, len(labels), interface.noise_shape(run))
            expected = model.sample(noise, torch.tensor(labels), run).numpy()
            assert np.abs(images_of(answer) - expected).max() < 1e-3, n


def test_what_a_student_of_few_steps_and_one_branch_was_not_trained_for_is_refused(
    consistency: Path, in_node: Ask
) -> None:
    steps, scale = in_node(consistency, {"sample": {"labels": [1], "steps": 3}}, {"sample": {"labels": [1], "w": 1000}})
    assert steps["status"] == scale["status"] == "argument"
    assert "steps is 3; this student was trained for 4, 2" in steps["message"]
    assert "guidance: the scale 1000 is out of range: this student has one branch, trained for" in scale["message"]


def test_latents_are_decoded(latent_folder: Path, latent_run: Path, in_node: Ask) -> None:
    artifact = packaged(latent_run, artifact=str(latent_folder / "onnx.yaml")) / "artifact"
    labels = [2, 0, 1]
    images, latents = in_node(
        artifact, {"sample": {"labels": labels, "seed": 5}}, {"sample": {"labels": labels, "seed": 5, "latents": True}}
    )
    with open_path(artifact, threads=1) as python:
        interface = python.denoiser.interface
        run = plan(python.sampling, interface.schedule.num_train_timesteps)
        noise = initial_noise(5, 0, len(labels), interface.noise_shape(run))
        for answer, decode in ((images, True), (latents, False)):
            expected = python.sample(noise, torch.tensor(labels), run, decode=decode).numpy()
            assert images_of(answer).shape == expected.shape
            assert np.abs(images_of(answer) - expected).max() < 1e-3
