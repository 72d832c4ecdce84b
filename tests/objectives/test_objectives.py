from __future__ import annotations

import subprocess
import sys
from typing import get_args

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from dashdeploy.diffusion import schedule
from dashdeploy.diffusion.denoiser import Interface, TorchDenoiser
from dashdeploy.objectives import OBJECTIVES, AnyObjective
from dashdeploy.objectives.base import Batch, Objective
from dashdeploy.objectives.cond_only import CondOnly
from dashdeploy.objectives.dash import Dash
from dashdeploy.objectives.gap_match import GapMatch
from dashdeploy.objectives.guided import Composite, MultiW, SingleHead
from dashdeploy.objectives.scratch import Scratch
from dashdeploy.objectives.shared_mask import SharedMask
from dashdeploy.recipe import schema
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
    return Batch(x, t, torch.tensor([0, 1, 2, 0, 1, 2]), eps, uniform, teacher_uncond=uncond, teacher_cond=cond)


def loss_of(objective: Objective, batch: Batch, weights: TimestepWeights):
    return TrainStep(TorchDenoiser(ByLabel(), INTERFACE), weights, objective.terms)(batch, batch.t)


def per_sample(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a.double() - b.double()).square().sum((1, 2, 3)) / (2 * 4 * 4)


@pytest.mark.parametrize("kind", ["uniform", "min_snr_eps", "tirt"])
def test_dash_is_the_papers_objective_term_for_term_in_float64(batch: Batch, kind: str) -> None:
    weights = TimestepWeights(schema.TimestepWeights(kind=kind), SCHEDULE)
    found = loss_of(Dash(), batch, weights)
    scale = torch.tensor([0.1, 0.2, 0.3, 0.7], dtype=torch.float64)
    x = batch.x_t.double()
    cond, uncond = scale[batch.y].view(-1, 1, 1, 1) * x, scale[3] * x
    w = weights(batch.t, batch.t).detach().double()
    imitation = (w * per_sample(cond, batch.teacher_cond)).mean()
    unconditional = (w * per_sample(uncond, batch.teacher_uncond)).mean()
    anchor = (w * per_sample(cond, batch.target)).mean()
    assert float(found.terms["imitation"]) == pytest.approx(float(imitation), rel=1e-5)
    assert float(found.terms["unconditional"]) == pytest.approx(float(unconditional), rel=1e-5)
    assert float(found.terms["anchor"]) == pytest.approx(float(anchor), rel=1e-5)
    assert found.total.item() == pytest.approx(float(imitation + unconditional + 0.1 * anchor), rel=1e-5)


def test_a_coefficient_scales_only_its_term(batch: Batch) -> None:
    weights = TimestepWeights(schema.TimestepWeights(), SCHEDULE)
    base = loss_of(Dash(), batch, weights)
    more = loss_of(Dash(unconditional=3.0), batch, weights)
    assert (more.total - base.total).item() == pytest.approx(2 * float(base.terms["unconditional"]), rel=1e-4)


def test_cond_only_never_touches_the_null_class(batch: Batch) -> None:
    weights = TimestepWeights(schema.TimestepWeights(), SCHEDULE)
    denoiser = TorchDenoiser(ByLabel(), INTERFACE)
    step = TrainStep(denoiser, weights, CondOnly().terms)
    step(batch, batch.t).total.backward()
    assert denoiser.unet.scale.grad[3] == 0
    assert (denoiser.unet.scale.grad[:3] != 0).all()


def test_label_dropout_is_drawn_for_each_sample(batch: Batch) -> None:
    weights = TimestepWeights(schema.TimestepWeights(), SCHEDULE)
    found = loss_of(Scratch(label_dropout=0.1), batch, weights)
    labels = torch.tensor([3, 1, 3, 0, 1, 2])  # uniform < 0.1 at rows 0 and 2
    scale = torch.tensor([0.1, 0.2, 0.3, 0.7])
    expected = per_sample(scale[labels].view(-1, 1, 1, 1) * batch.x_t, batch.target).mean()
    assert found.total.item() == pytest.approx(float(expected), rel=1e-5)


def branches64(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """(uncond, cond) of ByLabel in float64."""
    scale = torch.tensor([0.1, 0.2, 0.3, 0.7], dtype=torch.float64)
    x = batch.x_t.double()
    return scale[3] * x, scale[batch.y].view(-1, 1, 1, 1) * x


def guided64(uncond: torch.Tensor, cond: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return uncond.double() + w.double().view(-1, 1, 1, 1) * (cond.double() - uncond.double())


def terms64(kind: str, batch: Batch) -> dict[str, torch.Tensor]:
    """Every other objective's terms, by their definitions."""
    uncond, cond = branches64(batch)
    t_uncond, t_cond = batch.teacher_outputs()
    if kind in ("composite", "multi_w", "single_head"):
        zero = torch.zeros_like(batch.uniform)
        w = {"composite": zero + 2.5, "multi_w": 1 + 3 * batch.uniform, "single_head": zero + 2}
        wanted = guided64(t_uncond, t_cond, w[kind])
        if kind == "single_head":
            return {"guided": per_sample(cond, wanted)}
        return {"guided": per_sample(guided64(uncond, cond, w[kind]), wanted), "anchor": per_sample(cond, batch.target)}
    if kind == "gap_match":
        return {"gap": per_sample(cond - uncond, t_cond - t_uncond), "anchor": per_sample(cond, batch.target)}
    dropped = (batch.uniform < 0.1).view(-1, 1, 1, 1)
    eps = torch.where(dropped, uncond, cond)
    return {
        "imitation": per_sample(eps, torch.where(dropped, t_uncond, t_cond)),
        "anchor": per_sample(eps, batch.target),
    }


COEFFICIENTS = {
    "composite": (Composite(), {"guided": 1.0, "anchor": 0.1}),
    "multi_w": (MultiW(), {"guided": 1.0, "anchor": 0.1}),
    "gap_match": (GapMatch(), {"gap": 1.0, "anchor": 1.0}),
    "shared_mask": (SharedMask(), {"imitation": 1.0, "anchor": 0.1}),
    "single_head": (SingleHead(), {"guided": 1.0}),
}


@pytest.mark.parametrize("kind", COEFFICIENTS)
def test_every_objective_is_its_definition_in_float64(batch: Batch, kind: str) -> None:
    config, coefficients = COEFFICIENTS[kind]
    weights = TimestepWeights(schema.TimestepWeights(kind="min_snr_eps"), SCHEDULE)
    found = loss_of(config, batch, weights)
    w = weights(batch.t, batch.t).double()
    expected = {name: (w * value).mean() for name, value in terms64(kind, batch).items()}
    assert found.terms.keys() == expected.keys()
    for name, value in expected.items():
        assert float(found.terms[name]) == pytest.approx(float(value), rel=1e-5)
    total = sum(coefficients[name] * value for name, value in expected.items())
    assert found.total.item() == pytest.approx(float(total), rel=1e-5)


def test_each_kind_is_registered_under_its_name() -> None:
    classes = get_args(get_args(AnyObjective)[0])
    assert [arm.model_fields["kind"].default for arm in classes] == list(OBJECTIVES)
    assert {kind.model_fields["kind"].default for kind in classes if not kind.needs_teacher} == {"scratch"}
    assert {kind.model_fields["kind"].default for kind in classes if kind().hint_weight} == {"fitnets"}


def test_only_dash_with_a_gap_by_guidance_reads_the_guidance_and_the_others_stay_as_they_are() -> None:
    classes = get_args(get_args(AnyObjective)[0])
    assert Dash(gap="guidance").reads_guidance
    for objective in (kind() for kind in classes):
        assert not objective.reads_guidance
        assert objective.at_guidance([3.0] * 10) == objective


def test_objectives_are_read_without_torch() -> None:
    code = "import sys, dashdeploy.objectives; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_dash_with_a_gap_adds_only_that_term(batch: Batch) -> None:
    weights = TimestepWeights(schema.TimestepWeights(), SCHEDULE)
    plain, more = (loss_of(Dash(gap=gap), batch, weights) for gap in (0.0, 3.0))
    assert "gap" not in plain.terms
    uncond, cond = branches64(batch)
    gap = per_sample(cond - uncond, batch.teacher_cond - batch.teacher_uncond).mean()
    assert float(more.terms["gap"]) == pytest.approx(float(gap), rel=1e-5)
    assert (more.total - plain.total).item() == pytest.approx(3 * float(gap), rel=1e-4)


def test_the_guidance_in_use_says_what_the_gap_weighs() -> None:
    # w(w − 1) is 2 at w = 2: (1, 1, 2) scaled to a sum of 2 with the gap counted in
    found = Dash(gap="guidance").at_guidance([2.0] * 10)
    assert (found.imitation, found.unconditional, found.gap, found.anchor) == (0.5, 0.5, 1.0, 0.1)
    assert Dash(gap="guidance").at_guidance([1.0] * 10).gap == 0.0  # guidance is off: no gap
    mixed = Dash(gap="guidance").at_guidance([1.0, 3.0])  # mean of 0 and 6
    assert mixed.gap == pytest.approx(2 * 3 / 5)
    assert Dash(gap=0.7).at_guidance([4.0]).gap == 0.7


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ({"kind": "dash", "imitation": 0, "unconditional": 0, "gap": "guidance"}, "gap: guidance scales itself"),
        ({"kind": "dash", "imitation": 0, "unconditional": 0, "anchor": 0}, "all coefficients are 0"),
        ({"kind": "dash", "imitation": 0, "unconditional": 0, "anchor": 0, "hint": 1}, "are 0 but hint"),
        ({"kind": "multi_w", "w_min": 3, "w_max": 2}, r"w_max \(2\) must be above w_min \(3\)"),
        ({"kind": "gap_match", "anchor": 0}, "greater than 0"),
    ],
)
def test_an_objective_that_asks_for_nothing_is_refused(text: dict, expected: str) -> None:
    with pytest.raises(ValidationError, match=expected):
        schema.Distill(objective=text)


def test_a_batch_without_teacher_outputs_cannot_be_distilled(batch: Batch) -> None:
    bare = Batch(batch.x_t, batch.t, batch.y, batch.target, batch.uniform)
    with pytest.raises(AssertionError, match="without a teacher"):
        bare.teacher_outputs()
