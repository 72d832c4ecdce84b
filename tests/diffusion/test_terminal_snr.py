"""Samplers that begin so near to zero SNR that a prediction of eps spoils the images are told of."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from dashdeploy.diffusion.sampling import plan
from dashdeploy.diffusion.schedule import NoiseSchedule, from_recipe
from dashdeploy.diffusion.terminal_snr import amplified
from dashdeploy.recipe.schema import NoiseSchedule as Section
from dashdeploy.recipe.schema import Sampling

COSINE = from_recipe(Section(kind="cosine", beta_start=1e-4, beta_end=0.999))
LINEAR = from_recipe(Section())
UNCLIPPED = Sampling(num_inference_steps=50, clip_sample=False)


def factor(schedule: NoiseSchedule) -> float:
    """By how much an error of eps comes out larger after the first step, measured on one step of DDIM."""
    run = plan(UNCLIPPED, 1000)
    alpha_bar = schedule.alphas_cumprod_from_clean.double()
    t, after, _ = next(iter(run.steps()))
    x = torch.ones(2, 1, 1, 1, dtype=torch.float64)
    eps = torch.tensor([1.0, 1.001], dtype=torch.float64).view(2, 1, 1, 1)
    moved = run.move(x, eps, t, after, alpha_bar, prediction="epsilon")
    return float((moved[0] - moved[1]).abs() / 0.001)


def test_the_factor_that_is_told_is_the_samplers() -> None:
    told = amplified(plan(UNCLIPPED, 1000), COSINE, "epsilon")
    assert told is not None and "the step from t = 999" in told
    assert float(told.split("eps ")[1].split(" times")[0].replace(",", "")) == pytest.approx(factor(COSINE), rel=0.01)
    assert factor(COSINE) > 100 > 3 > factor(LINEAR)


@pytest.mark.parametrize(
    ("schedule", "changes", "prediction"),
    [
        (COSINE, {"clip_sample": True}, "epsilon"),
        (COSINE, {"timestep_spacing": "leading"}, "epsilon"),
        (COSINE, {}, "v_prediction"),
        (COSINE, {"num_inference_steps": 1}, "epsilon"),
        (LINEAR, {}, "epsilon"),
    ],
)
def test_what_does_no_harm_is_not_told(schedule: NoiseSchedule, changes: dict, prediction) -> None:
    run = plan(UNCLIPPED.model_copy(update=changes), 1000)
    assert amplified(run, schedule, prediction) is None
    assert amplified(replace(run, solver="consistency"), COSINE, "epsilon") is None
