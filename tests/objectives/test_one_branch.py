"""Objectives of one branch: which w and t are drawn, what the loss is, and how a recipe says it."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from dashdeploy.diffusion.denoiser import Interface, TorchDenoiser
from dashdeploy.objectives.base import Batch, Objective
from dashdeploy.objectives.one_branch import Guided, Progressive, Segments
from dashdeploy.recipe import schema
from dashdeploy.training.step import TrainStep
from dashdeploy.training.timestep_weights import TimestepWeights
from tests.made import schedule

B, SHAPE = 5, (1, 4, 4)
SCHEDULE = schedule()
ALL = [Guided(), Segments(), Progressive()]


class ByScale(nn.Module):
    """v = scale · (1 + w) · x for a label: what it predicts at w is known in closed form."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([0.1, 0.2, 0.3]))

    def forward(
        self, x: torch.Tensor, t: torch.Tensor, condition: tuple[torch.Tensor, torch.Tensor], return_dict: bool
    ) -> tuple[torch.Tensor]:
        y, w = condition
        return ((self.scale[y] * (1 + w)).view(-1, 1, 1, 1) * x,)


def batch() -> Batch:
    g = torch.Generator().manual_seed(0)
    x, target = (torch.randn(B, *SHAPE, generator=g) for _ in range(2))
    uniform = torch.rand(B, generator=g)
    w = Guided().scale(uniform)
    return Batch(x, torch.tensor([0, 300, 500, 700, 999]), torch.tensor([0, 1, 2, 0, 1]), target, uniform, w=w)


@pytest.mark.parametrize("objective", ALL, ids=lambda objective: objective.kind)
@pytest.mark.parametrize("kind", ["uniform", "min_snr_v"])
def test_the_loss_is_the_square_error_of_the_prediction_at_each_images_w_in_float64(
    objective: Objective, kind: str
) -> None:
    interface = Interface(3, SHAPE, SCHEDULE, prediction="v_prediction", branches=1, guidance_range=(1.0, 4.0))
    weights, drawn = TimestepWeights(schema.TimestepWeights(kind=kind), SCHEDULE), batch()
    loss = TrainStep(TorchDenoiser(ByScale(), interface), weights, objective.terms)(drawn, drawn.t)
    scale = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)[drawn.y] * (1 + drawn.w.double())
    error = (scale.view(-1, 1, 1, 1) * drawn.x_t - drawn.target).square().sum((1, 2, 3)) / 16
    expected = (weights(drawn.t, drawn.t).double() * error).mean()
    assert loss.total.item() == pytest.approx(float(expected), rel=1e-5)
    (name,) = loss.terms
    assert name == ("guided" if objective.kind == "guided" else "landing")


@pytest.mark.parametrize("objective", ALL, ids=lambda objective: objective.kind)
def test_w_is_uniform_in_its_range(objective: Objective) -> None:
    wide = type(objective)(w_min=0.5, w_max=6.5)
    assert wide.guidance_range == (0.5, 6.5) and objective.guidance_range == (1.0, 4.0)
    u = torch.linspace(0, 1, 7)
    torch.testing.assert_close(wide.scale(u), torch.linspace(0.5, 6.5, 7))


def test_how_far_the_teacher_runs_and_at_which_steps() -> None:
    assert (Guided().few_steps, Guided().solver_steps) == ((), 0)
    segments = Segments(steps=(4, 2, 1), teacher_steps=5)
    assert (segments.few_steps, segments.solver_steps) == ((4, 2, 1), 5)
    progressive = Progressive(steps=2, halvings=3)
    assert (progressive.few_steps, progressive.solver_steps, progressive.phases) == ((2,), 1, (16, 8, 4, 2))
    for objective in (Guided(), segments, progressive):
        assert objective.branches == 1 and objective.needs_teacher
        assert not objective.hint_weight and not objective.reads_guidance


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "guided", "w_min": 4, "w_max": 4}, r"w_max \(4\) must be above w_min \(4\)"),
        ({"kind": "segments", "w_min": 5}, r"w_max \(4\) must be above w_min \(5\)"),
        ({"kind": "segments", "steps": []}, "at least 1 item"),
        ({"kind": "segments", "steps": [4, 4]}, "4"),
        ({"kind": "segments", "steps": [0]}, "greater than or equal to 1"),
        ({"kind": "segments", "steps": [65]}, "less than or equal to 64"),
        ({"kind": "segments", "teacher_steps": 0}, "greater than or equal to 1"),
        ({"kind": "guided", "steps": [4]}, "steps"),
        ({"kind": "progressive", "steps": [4]}, "valid integer"),
        ({"kind": "progressive", "halvings": 0}, "greater than or equal to 1"),
        ({"kind": "consistency", "skip": 0}, "greater than or equal to 1"),
        ({"kind": "consistency", "steps": [2, 2]}, "repeats"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        schema.Distill(objective=settings)


def test_a_batch_without_scales_is_no_batch_of_one_branch() -> None:
    drawn = batch()
    bare = Batch(drawn.x_t, drawn.t, drawn.y, drawn.target, drawn.uniform)
    with pytest.raises(AssertionError, match="without guidance scales"):
        bare.scales()
