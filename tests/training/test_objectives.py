from __future__ import annotations

import pytest
import torch
from torch import nn

from dashdeploy.diffusion import schedule
from dashdeploy.diffusion.denoiser import Interface, TorchDenoiser
from dashdeploy.recipe import schema
from dashdeploy.training import objectives
from dashdeploy.training.batches import Batch
from dashdeploy.training.step import TrainStep
from dashdeploy.training.timestep_weights import TimestepWeights

SCHEDULE = schedule.from_recipe(schema.NoiseSchedule())
INTERFACE = Interface(num_classes=3, image_shape=(2, 4, 4), schedule=SCHEDULE)
B = 6


class ByLabel(nn.Module):
    """eps = scale[label] · x: each branch's output is known in closed form."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([0.1, 0.2, 0.3, 0.7]))

    def forward(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor, return_dict: bool) -> tuple[torch.Tensor]:
        return (self.scale[y].view(-1, 1, 1, 1) * x,)


@pytest.fixture
def batch() -> Batch:
    g = torch.Generator().manual_seed(0)
    x, eps, uncond, cond = (torch.randn(B, 2, 4, 4, generator=g) for _ in range(4))
    t = torch.randint(0, 1000, (B,), generator=g)
    uniform = torch.tensor([0.05, 0.5, 0.09, 0.95, 0.1, 0.2])
    return Batch(x, t, torch.tensor([0, 1, 2, 0, 1, 2]), eps, uniform, uncond, cond)


def loss_of(objective: str, config, batch: Batch, weights: TimestepWeights):
    denoiser = TorchDenoiser(ByLabel(), INTERFACE)
    function = objectives.OBJECTIVES[objective]
    return TrainStep(denoiser, weights, lambda d, b: function(d, b, config))(batch, batch.t)


def per_sample(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a.double() - b.double()).square().sum((1, 2, 3)) / (2 * 4 * 4)


@pytest.mark.parametrize("kind", ["uniform", "min_snr_eps", "tirt"])
def test_dash_is_the_papers_objective_term_for_term_in_float64(batch: Batch, kind: str) -> None:
    weights = TimestepWeights(schema.TimestepWeights(kind=kind), SCHEDULE)
    found = loss_of("dash", schema.Dash(), batch, weights)
    scale = torch.tensor([0.1, 0.2, 0.3, 0.7], dtype=torch.float64)
    x = batch.x_t.double()
    cond, uncond = scale[batch.y].view(-1, 1, 1, 1) * x, scale[3] * x
    w = weights(batch.t, batch.t).detach().double()
    imitation = (w * per_sample(cond, batch.teacher_cond)).mean()
    unconditional = (w * per_sample(uncond, batch.teacher_uncond)).mean()
    anchor = (w * per_sample(cond, batch.eps)).mean()
    assert float(found.terms["imitation"]) == pytest.approx(float(imitation), rel=1e-5)
    assert float(found.terms["unconditional"]) == pytest.approx(float(unconditional), rel=1e-5)
    assert float(found.terms["anchor"]) == pytest.approx(float(anchor), rel=1e-5)
    assert found.total.item() == pytest.approx(float(imitation + unconditional + 0.1 * anchor), rel=1e-5)


def test_coefficients_scale_their_own_term_alone(batch: Batch) -> None:
    weights = TimestepWeights(schema.TimestepWeights(), SCHEDULE)
    base = loss_of("dash", schema.Dash(), batch, weights)
    more = loss_of("dash", schema.Dash(unconditional=3.0), batch, weights)
    assert (more.total - base.total).item() == pytest.approx(2 * float(base.terms["unconditional"]), rel=1e-4)


def test_cond_only_never_touches_the_null_class(batch: Batch) -> None:
    weights = TimestepWeights(schema.TimestepWeights(), SCHEDULE)
    denoiser = TorchDenoiser(ByLabel(), INTERFACE)
    step = TrainStep(denoiser, weights, lambda d, b: objectives.cond_only(d, b, schema.CondOnly()))
    step(batch, batch.t).total.backward()
    assert denoiser.unet.scale.grad[3] == 0
    assert (denoiser.unet.scale.grad[:3] != 0).all()


def test_label_dropout_is_drawn_for_each_sample(batch: Batch) -> None:
    weights = TimestepWeights(schema.TimestepWeights(), SCHEDULE)
    found = loss_of("scratch", schema.Scratch(label_dropout=0.1), batch, weights)
    labels = torch.tensor([3, 1, 3, 0, 1, 2])  # uniform < 0.1 at rows 0 and 2
    scale = torch.tensor([0.1, 0.2, 0.3, 0.7])
    expected = per_sample(scale[labels].view(-1, 1, 1, 1) * batch.x_t, batch.eps).mean()
    assert found.total.item() == pytest.approx(float(expected), rel=1e-5)


def test_the_branch_errors_already_hold_half_of_the_gap_error() -> None:
    # ‖e_c‖² + ‖e_u‖² = ½‖e_c + e_u‖² + ½‖e_Δ‖²
    e_c, e_u = (torch.randn(100, generator=torch.Generator().manual_seed(s), dtype=torch.float64) for s in (0, 1))
    left = e_c.square().sum() + e_u.square().sum()
    right = 0.5 * (e_c + e_u).square().sum() + 0.5 * (e_c - e_u).square().sum()
    torch.testing.assert_close(left, right)


def test_a_batch_without_teacher_outputs_cannot_be_distilled(batch: Batch) -> None:
    bare = Batch(batch.x_t, batch.t, batch.y, batch.eps, batch.uniform)
    with pytest.raises(AssertionError, match="without a teacher"):
        bare.teacher_outputs()
