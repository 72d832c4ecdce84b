"""The C++ runtime with students of other predictions, of one branch, few steps and the solver consistency."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from library import Library, Model, StatusError, guidance

from dashdeploy import stages
from dashdeploy.diffusion import noise, sampling
from dashdeploy.export.export import export
from dashdeploy.recipe.load import load_text
from dashdeploy.recipe.schema import Sampling
from dashdeploy.runtime.opening import open_path
from dashdeploy.target import ParityLimits, Target
from dashdeploy.training.distill import distill
from tests.made import CONSISTENCY, SEGMENTS, save_teacher, taught_by

pytestmark = pytest.mark.slow

RUNS = {
    "v": ("v_prediction", True, ()),
    "x_0": ("epsilon", False, ("student.prediction_type=sample",)),
    "few steps": ("v_prediction", True, SEGMENTS),
    "consistency": ("v_prediction", True, CONSISTENCY),
}
"""Name -> what the teacher predicts, whether it ends at zero SNR, what the recipe says beside."""
FORMS = {"update on the host": ("guided",), "update in the graph": ("guided", "step", "sampler")}
LABELS = np.arange(5) % 10


@pytest.fixture(scope="module")
def runs(tiny_text: str, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    """(student, form) -> its artifact."""
    torch.set_num_threads(1)
    folder, made = tmp_path_factory.mktemp("predictions"), {}
    for name, (taught, zero_snr, more) in RUNS.items():
        teacher = save_teacher(folder / f"teacher {name}", taught, zero_snr=zero_snr)
        run = stages.open_run(folder, name.replace(" ", "-"))
        distill(load_text(tiny_text, name="t", overrides=[*taught_by(teacher), *more]), run)
        for form, graphs in FORMS.items():
            limits = ParityLimits(batch_sizes=(1, 3), t_bins=2)
            target = Target(
                name=form.replace(" ", "-"), description="t", backend="openvino", graphs=graphs, parity=limits
            )
            made[name, form] = export(run, target).folder
    return made


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", RUNS)
def test_its_images_are_the_python_runtimes(
    library: Library, runs: dict[tuple[str, str], Path], name: str, form: str
) -> None:
    steps = (1, 7, 50) if name in ("v", "x_0") else (2, 4)
    with Model(library, runs[name, form], threads=2) as here, open_path(runs[name, form], threads=1) as there:
        interface = there.denoiser.interface
        for count in steps:
            section = there.sampling.model_copy(update={"num_inference_steps": count, "guidance": 2.5})
            plan = sampling.plan(section, 1000, grids=interface.grids)
            start = sampling.initial_noise(3, 0, len(LABELS), interface.noise_shape(plan))
            expected = there.sample(start, torch.from_numpy(LABELS), plan).numpy()
            images = here.sample(LABELS, seed=3, scale=guidance("constant", w=2.5), steps=count)
            np.testing.assert_allclose(images, expected, rtol=0, atol=1e-4)
            t, t_prev, _ = here.plan(count, guidance())
            assert (t.tolist(), t_prev.tolist()) == (list(plan.timesteps), [step.t_prev for step in plan.steps()])


def test_one_branch_takes_a_scale_for_each_step(library: Library, runs: dict[tuple[str, str], Path]) -> None:
    folder = runs["few steps", "update in the graph"]
    scales = np.array([1.5, 4.0, 1.0, 2.0], np.float32)
    with Model(library, folder, threads=1) as here, open_path(folder, threads=1) as there:
        interface = there.denoiser.interface
        section = Sampling(num_inference_steps=4, clip_sample=there.sampling.clip_sample)
        run = sampling.plan(section, 1000, grids=interface.grids)
        plan = sampling.Plan(run.timesteps, tuple(scales.tolist()), run.clip_sample)
        start = sampling.initial_noise(3, 0, len(LABELS), interface.image_shape)
        expected = there.sample(start, torch.from_numpy(LABELS), plan).numpy()
        images = here.sample(LABELS, seed=3, scale=guidance("schedule", scales), steps=4)
        np.testing.assert_allclose(images, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("fields", "scale", "words"),
    [
        ({"steps": 3}, guidance("constant", w=2.0), "steps is 3; this student was trained for 4, 2"),
        ({"steps": 1001}, guidance("constant", w=2.0), "steps is 1001; this student was trained for 4, 2"),
        (
            {"steps": 4},
            guidance("constant", w=4.5),
            "scale 4.5 is out of range: this student has one branch, trained for",
        ),
        ({"steps": 4}, guidance("constant", w=0.5), "scale 0.5 is out of range"),
        ({"steps": 4}, guidance("tag", w_min=1, w=9, beta=5), "is out of range"),
        ({"steps": 4}, guidance("interval", w=5, low=0.2, high=0.8), "scale 5 is out of range"),
    ],
)
def test_what_it_was_not_trained_for_is_refused(
    library: Library, runs: dict[tuple[str, str], Path], fields: dict, scale, words: str
) -> None:
    with Model(library, runs["few steps", "update in the graph"], threads=1) as here:
        with pytest.raises(StatusError, match=words):
            here.sample(LABELS, scale=scale, **fields)
        x, t = np.zeros((1, 1, 8, 8), np.float32), np.array([500])
        with pytest.raises(StatusError, match="scale 8 is out of range"):
            here.step(x, t, t - 1, np.array([0]), np.array([8.0], np.float32))


@pytest.mark.parametrize("form", FORMS)
def test_each_step_of_the_solver_consistency_has_noise_of_its_own(
    library: Library, runs: dict[tuple[str, str], Path], form: str
) -> None:
    scale = guidance("constant", w=2.5)
    with Model(library, runs["consistency", form], threads=2, max_batch=2) as here:
        assert here.info.solver == b"consistency" and here.info.num_inference_steps == 4
        images = here.sample(LABELS, seed=3, scale=scale)
        given = library.noises(3, 0, len(LABELS), 4, 64)
        assert np.array_equal(here.sample(LABELS, noise=given, scale=scale), images)
        later = here.sample(LABELS[2:], seed=3, first_image=2, scale=scale)
        np.testing.assert_allclose(later, images[2:], rtol=0, atol=1e-5)
        told: list[tuple[int, int]] = []
        by_steps = here.sample(LABELS, seed=3, scale=scale, progress=lambda *done: told.append(done) or 0)
        np.testing.assert_allclose(by_steps, images, rtol=0, atol=1e-4)
        assert told[-1] == (told[-1][1],) * 2
        given[-1, 3, 5] += 1.0  # of one image, before its last step
        other = here.sample(LABELS, noise=given, scale=scale)
        assert np.array_equal(other[:-1], images[:-1]) and not np.allclose(other[-1], images[-1], atol=1e-3)
        given[-1, 3, 5] = np.nan
        with pytest.raises(StatusError, match=r"noise\[1221\] is not a finite number"):
            here.sample(LABELS, noise=given, scale=scale)


def test_an_application_that_owns_the_loop_adds_the_noise_itself(
    library: Library, runs: dict[tuple[str, str], Path]
) -> None:
    folder = runs["consistency", "update in the graph"]
    with Model(library, folder, threads=1) as here, open_path(folder, threads=1) as there:
        alpha_bar = there.denoiser.interface.schedule.alphas_cumprod.numpy()
        z = library.noises(3, 0, len(LABELS), 4, 64).reshape(-1, 4, 1, 8, 8)
        t, t_prev, w = here.plan(0, guidance("constant", w=2.5))
        x = np.ascontiguousarray(z[:, 0])
        for i in range(4):
            if i:
                x = np.sqrt(alpha_bar[t[i]]) * x + np.sqrt(1 - alpha_bar[t[i]]) * z[:, i]
            each = [np.full(len(LABELS), values[i]) for values in (t, t_prev)]
            here.step(x, *each, LABELS, np.full(len(LABELS), w[i], np.float32))
        expected = here.sample(LABELS, seed=3, scale=guidance("constant", w=2.5))
        np.testing.assert_allclose(x, expected, rtol=0, atol=1e-4)
        with pytest.raises(
            StatusError, match=r"t_prev\[0\] is 400; expected -1: the solver consistency steps to clean"
        ):
            here.step(x[:1], np.array([500]), np.array([400]), LABELS[:1], np.ones(1, np.float32))


def test_the_noise_of_each_step_is_pythons(library: Library) -> None:
    for seed, first in ((0, 0), (7, 3), (2**64 - 1, 2**32 + 5)):
        here, there = library.noises(seed, first, 2, 3, 13), noise.normal(seed, first, 2, 13, steps=3)
        np.testing.assert_allclose(here.reshape(2, -1), there, rtol=0, atol=1e-6)
        assert np.array_equal(here[:, 0], library.noise(seed, first, 2, 13))
    with pytest.raises(StatusError, match="steps is 0; expected 1 or more"):
        library.noises(0, 0, 1, 0, 4)
