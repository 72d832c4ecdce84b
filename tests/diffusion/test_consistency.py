"""The solver consistency: its formula, its noise by seed, image and step, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from wave_denoiser import SCHEDULE, Wave

from dashdeploy.diffusion import noise, sampling
from dashdeploy.diffusion.grids import CLEAN, grids
from dashdeploy.errors import UserError
from dashdeploy.recipe.schema import Sampling

FEW = grids((4, 2, 1), 1000)
Y = torch.tensor([0, 1, 2])


def student(**changes) -> Wave:
    return Wave(**{"prediction": "sample", "grids": FEW, "consistency": True, **changes})


def planned(steps: int, **changes) -> sampling.Plan:
    section = Sampling(num_inference_steps=steps, solver="consistency", **{"guidance": 2.5, **changes})
    return sampling.plan(section, 1000, grids=FEW)


def start(run: sampling.Plan, count: int = 3, seed: int = 5) -> torch.Tensor:
    return sampling.initial_noise(seed, 0, count, student().interface.noise_shape(run))


@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize("clip", [True, False])
def test_it_is_algorithm_1_in_float64(steps: int, clip: bool) -> None:
    run, model = planned(steps, clip_sample=clip), student()
    z = start(run).double()
    alpha_bar = np.cumprod(1.0 - SCHEDULE.betas)
    x = z[:, 0]
    for i, t in enumerate(run.timesteps):
        if i:
            x = alpha_bar[t] ** 0.5 * x + (1 - alpha_bar[t]) ** 0.5 * z[:, i]
        x = model.guided(x, torch.full((3,), t), Y, torch.full((3,), 2.5))
        x = x.clamp(-1, 1) if clip else x
    told: list[int] = []
    found = sampling.SOLVERS["consistency"](student(), start(run), Y, run, on_step=told.append)
    torch.testing.assert_close(found.double(), x, rtol=1e-5, atol=1e-5)
    assert told == list(range(steps)) and float(x.std()) > 0.1


def test_any_prediction_is_taken_as_its_x_0() -> None:
    run = planned(2)
    x_0 = sampling.ddim(student(), start(run), Y, run)

    class Converted(Wave):
        def eps(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            bar = SCHEDULE.alphas_cumprod[t].view(-1, 1, 1, 1)
            return (bar.sqrt() * x - super().eps(x, t, y)) / (1 - bar).sqrt()

    changes = {"prediction": "v_prediction", "grids": FEW, "consistency": True}
    torch.testing.assert_close(sampling.ddim(Converted(**changes), start(run), Y, run), x_0, rtol=1e-4, atol=1e-4)


def test_an_image_follows_from_its_seed_and_number_whatever_its_batch() -> None:
    run, interface = planned(4), student().interface

    def drawn(batch_size: int, seed: int = 5) -> torch.Tensor:
        batches = sampling.draw(
            partial(sampling.ddim, student()), interface, run, labels=Y, seed=seed, batch_size=batch_size
        )
        return torch.cat(list(batches))

    assert torch.equal(drawn(3), drawn(1)) and torch.equal(drawn(3), drawn(2))
    assert torch.equal(drawn(3), sampling.ddim(student(), start(run), Y, run))
    assert not torch.allclose(drawn(3), drawn(3, seed=6), atol=0.1)


def test_the_noise_of_each_step_is_a_stream_of_its_own_and_the_start_is_that_of_other_solvers() -> None:
    both = noise.normal(7, 3, 2, 13, steps=3).reshape(2, 3, 13)
    assert np.array_equal(both[:, 0], noise.normal(7, 3, 2, 13))
    assert len({part.tobytes() for part in both.reshape(6, 13)}) == 6
    assert np.array_equal(noise.normal(7, 3, 2, 13, steps=2).reshape(2, 2, 13), both[:, :2])
    # The counter's second word is the step: Philox itself has published answers, see test_noise.py.
    words = noise.philox4x32(np.array([[0, 1, 4, 0]], np.uint64), (7, 0))[0].astype(np.float64)
    u = (words + 0.5) / 2**32
    radius, angle = np.sqrt(-2 * np.log(u[::2])), 2 * np.pi * u[1::2]
    expected = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1).ravel()
    np.testing.assert_allclose(both[1, 1, :4], expected, rtol=1e-6)


def test_its_steps_go_to_the_clean_image() -> None:
    run = planned(2)
    assert [(step.t, step.t_prev) for step in run.steps()] == [(FEW[1][0], CLEAN), (FEW[1][1], CLEAN)]
    with pytest.raises(UserError, match=r"^the solver consistency ends at -1, the clean image; got 99$"):
        replace(run, end=99)


@pytest.mark.parametrize(
    ("changes", "solver", "words"),
    [
        ({}, "ddim", "solver ddim: this model was not trained for it. Take consistency, and 4, 2 or 1 steps."),
        ({}, "dpmpp_2m", "solver dpmpp_2m: this model was not trained for it. Take consistency, and 4, 2 or 1 steps."),
        (
            {"consistency": False},
            "consistency",
            "solver consistency: this model was not trained for it. Take ddim, and 4, 2 or 1 steps.",
        ),
        (
            {"consistency": False, "grids": ()},
            "consistency",
            "solver consistency: this model was not trained for it. Take ddim or dpmpp_2m, and any number of steps.",
        ),
    ],
)
def test_the_solver_of_another_training_is_refused(changes: dict, solver: str, words: str) -> None:
    model, run = student(**changes), replace(planned(4), solver=solver)
    with pytest.raises(UserError) as caught:
        sampling.SOLVERS[solver](model, start(run), Y, run)
    assert str(caught.value) == words and (model.single, model.double) == (0, 0)


@pytest.mark.parametrize("shape", [(3, 1, 4, 4), (3, 3, 1, 4, 4), (3, 5, 1, 4, 4), (2, 4, 1, 4, 4)])
def test_noise_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    model = student()
    with pytest.raises(UserError, match=r"^noise must be \(3, 4, 1, 4, 4\) float32 for 3 labels; got \(") as caught:
        sampling.ddim(model, torch.zeros(shape), Y, planned(4))
    assert str(shape) in str(caught.value) and (model.single, model.double) == (0, 0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_step_that_is_not_finite_is_named(value: float) -> None:
    class Diverges(Wave):
        def eps(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            eps = super().eps(x, t, y)
            if int(t[0]) < 600:
                eps[-1, 0, 1, 2] = value
            return eps

    model = Diverges(prediction="sample", grids=FEW, consistency=True)
    with pytest.raises(UserError, match=r"^step 3 of 4 \(t = 499, w = 2.5\): the network gave NaN or Inf"):
        sampling.ddim(model, start(planned(4)), Y, planned(4))
