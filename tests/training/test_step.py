"""A student that predicts something else than its teacher: both are compared in one prediction."""

from __future__ import annotations

from itertools import product
from typing import get_args

import pytest
import torch
from torch import nn

from dashdeploy.diffusion.denoiser import Interface, TorchDenoiser
from dashdeploy.diffusion.prediction import common
from dashdeploy.objectives.base import Batch, Objective
from dashdeploy.objectives.dash import Dash
from dashdeploy.objectives.guided import Composite
from dashdeploy.objectives.scratch import Scratch
from dashdeploy.recipe import schema
from dashdeploy.training.step import Compared, TrainStep
from dashdeploy.training.timestep_weights import TimestepWeights
from tests.made import schedule

KINDS = get_args(schema.Prediction)
SHAPE, B = (1, 4, 4), 4
T = torch.tensor([50, 300, 600, 900])
Y = torch.tensor([0, 1, 2, 0])


class ByLabel(nn.Module):
    """output = scale[label] · x."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([0.1, 0.2, 0.3, 0.7]))

    def forward(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor, return_dict: bool) -> tuple[torch.Tensor]:
        return (self.scale[y].view(-1, 1, 1, 1) * x,)


def student(kind: schema.Prediction) -> TorchDenoiser:
    return TorchDenoiser(ByLabel(), Interface(3, SHAPE, schedule(), prediction=kind))


def as_other(output: torch.Tensor, x: torch.Tensor, given: str, wanted: str) -> torch.Tensor:
    """One prediction as another by the definitions, float64."""
    bar = schedule().alphas_cumprod[T].double().view(-1, 1, 1, 1)
    a, s = bar.sqrt(), (1 - bar).sqrt()
    output, x = output.double(), x.double()
    x_0 = {"epsilon": (x - s * output) / a, "v_prediction": a * x - s * output, "sample": output}[given]
    eps = (x - a * x_0) / s
    return {"epsilon": eps, "v_prediction": a * eps - s * x_0, "sample": x_0}[wanted]


def batch() -> Batch:
    g = torch.Generator().manual_seed(0)
    x, target, uncond, cond = (torch.randn(B, *SHAPE, generator=g) for _ in range(4))
    uniform = torch.tensor([0.05, 0.5, 0.9, 0.01])
    return Batch(x, T, Y, target, uniform, teacher_uncond=uncond, teacher_cond=cond)


def square(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a.double() - b.double()).square().mean()


@pytest.mark.parametrize(("own", "taught"), list(product(KINDS, KINDS)))
def test_both_branches_are_compared_with_the_teachers_in_the_common_prediction_in_float64(own, taught) -> None:
    drawn, denoiser = batch(), student(own)
    compared = common(own, taught)
    weights = TimestepWeights(schema.TimestepWeights(), schedule())
    found = TrainStep(denoiser, weights, Dash().terms, prediction=compared)(drawn, T)
    scale = denoiser.unet.scale.detach().double()
    cond, uncond = (as_other(k.view(-1, 1, 1, 1) * drawn.x_t, drawn.x_t, own, compared) for k in (scale[Y], scale[[3]]))
    expected = {
        "imitation": square(cond, drawn.teacher_cond),
        "unconditional": square(uncond, drawn.teacher_uncond),
        "anchor": square(cond, drawn.target),
    }
    for name, value in expected.items():
        assert float(found.terms[name]) == pytest.approx(float(value), rel=1e-4), name
    found.total.backward()
    assert bool((denoiser.unet.scale.grad != 0).all())


@pytest.mark.parametrize("objective", [Composite(), Scratch()], ids=lambda objective: objective.kind)
def test_what_other_objectives_ask_of_a_student_is_converted_too(objective: Objective) -> None:
    drawn, denoiser = batch(), student("v_prediction")
    weights = TimestepWeights(schema.TimestepWeights(), schedule())
    found = TrainStep(denoiser, weights, objective.terms, prediction="epsilon")(drawn, T)
    scale = denoiser.unet.scale.detach().double()
    if objective.kind == "composite":
        u, c = (
            as_other(k.view(-1, 1, 1, 1) * drawn.x_t, drawn.x_t, "v_prediction", "epsilon")
            for k in (scale[[3]], scale[Y])
        )
        expected = square(u + 2.5 * (c - u), drawn.teacher_uncond + 2.5 * (drawn.teacher_cond - drawn.teacher_uncond))
        assert float(found.terms["guided"]) == pytest.approx(float(expected), rel=1e-4)
    else:
        labels = torch.where(drawn.uniform < 0.1, torch.full_like(Y, 3), Y)
        eps = as_other(scale[labels].view(-1, 1, 1, 1) * drawn.x_t, drawn.x_t, "v_prediction", "epsilon")
        assert found.total.item() == pytest.approx(float(square(eps, drawn.target)), rel=1e-4)


def test_a_guided_prediction_is_converted_after_it_is_combined_or_before_it_all_the_same() -> None:
    drawn = batch()
    compared = Compared(student("v_prediction"), "epsilon")
    w = torch.tensor([1.0, 1.5, 2.5, 4.0])
    with torch.no_grad():
        guided = compared.guided(drawn.x_t, T, Y, w)
        combined = compared.combine(*compared.branches(drawn.x_t, T, Y), w)
    torch.testing.assert_close(guided, combined, rtol=1e-5, atol=1e-5)
