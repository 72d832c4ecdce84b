"""The consistency objective against its formula in float64, and what its gradient is of."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dashdeploy.diffusion.denoiser import Interface, TorchDenoiser
from dashdeploy.objectives.base import Batch
from dashdeploy.objectives.consistency import Consistency
from dashdeploy.recipe import schema
from dashdeploy.training.step import Loss, TrainStep
from dashdeploy.training.timestep_weights import TimestepWeights
from tests.made import schedule

SHAPE = (1, 4, 4)
SCHEDULE = schedule()


class ByTime(nn.Module):
    """scale · (1 + w) · (1 + t/1000) · x for a label, behind dropout."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([0.1, 0.2, 0.3]))
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: torch.Tensor, t: torch.Tensor, condition: tuple[torch.Tensor, torch.Tensor], return_dict: bool
    ) -> tuple[torch.Tensor]:
        y, w = condition
        factor = self.scale[y] * (1 + w) * (1 + t.to(x.dtype) / 1000)
        return (self.dropout(factor.view(-1, 1, 1, 1) * x),)


def batch() -> Batch:
    g = torch.Generator().manual_seed(0)
    x, x_s = (torch.randn(4, *SHAPE, generator=g) for _ in range(2))
    t, s = torch.tensor([10, 300, 999, 500]), torch.tensor([-1, 280, 979, 480])
    return Batch(x, t, torch.tensor([0, 1, 2, 0]), x_s, torch.zeros(4), w=torch.tensor([1.0, 2.0, 3.0, 4.0]), s=s)


def lost(network: nn.Module, prediction: str, drawn: Batch) -> Loss:
    interface = Interface(3, SHAPE, SCHEDULE, prediction=prediction, branches=1, guidance_range=(1.0, 4.0))
    weights = TimestepWeights(schema.TimestepWeights(), SCHEDULE)
    step = TrainStep(TorchDenoiser(network, interface), weights, Consistency().terms, prediction="sample")
    return step(drawn, drawn.t)


def x_0_64(drawn: Batch, x: torch.Tensor, t: torch.Tensor, prediction: str, scale: torch.Tensor) -> torch.Tensor:
    """What `ByTime` says of the image in x, float64."""
    x = x.double()
    said = (scale[drawn.y] * (1 + drawn.w.double()) * (1 + t.double() / 1000)).view(-1, 1, 1, 1) * x
    bar = SCHEDULE.alphas_cumprod[t].double().view(-1, 1, 1, 1)
    return bar.sqrt() * x - (1 - bar).sqrt() * said if prediction == "v_prediction" else said


@pytest.mark.parametrize("prediction", ["v_prediction", "sample"])
def test_the_loss_and_its_gradient_are_the_pseudo_huber_distance_from_a_fixed_target(prediction: str) -> None:
    network, drawn = ByTime(), batch()
    loss = lost(network, prediction, drawn)
    loss.total.backward()
    scale = torch.tensor([0.1, 0.2, 0.3]).double().requires_grad_()
    target = x_0_64(drawn, drawn.target, drawn.s.clamp(min=0), prediction, scale).detach()
    target[0] = drawn.target[0].double()  # s = −1
    c = 0.00054 * 16**0.5
    distance = (
        (x_0_64(drawn, drawn.x_t, drawn.t, prediction, scale) - target).square().sum((1, 2, 3)) + c**2
    ).sqrt() - c
    expected = distance.mean() / 16**0.5
    expected.backward()
    assert loss.total.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(network.scale.grad.double(), scale.grad, rtol=1e-4, atol=1e-6)


def test_student_and_target_have_the_same_dropout() -> None:
    drawn = batch()
    # x_s = x_t and s = t: with the same units dropped there is nothing between them.
    same = Batch(drawn.x_t, drawn.t, drawn.y, drawn.x_t, drawn.uniform, w=drawn.w, s=drawn.t)
    torch.manual_seed(0)
    first = lost(ByTime(dropout=0.5), "sample", same)
    assert first.total.item() == 0
    state = torch.get_rng_state()
    assert not torch.equal(state, torch.manual_seed(0).get_state()), "the next step would drop the same units"


def test_autocast_keeps_the_gradient() -> None:
    class Linear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.layer = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor, t: object, condition: object, return_dict: bool) -> tuple[torch.Tensor]:
            return (self.layer(x),)

    gradients = []
    for enabled in (False, True):
        network = Linear()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            lost(network, "sample", batch()).total.backward()
        gradients.append(network.layer.weight.grad)
    assert float(gradients[0].norm()) > 0.1
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0.1, atol=0.02)
