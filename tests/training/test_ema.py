"""The average of the weights: a power function's closed form, its width, and exact resume."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from dashdeploy.recipe import schema
from dashdeploy.training import ema


@pytest.mark.parametrize(("std", "gamma"), [(0.05, 16.97), (0.10, 6.94)])
def test_gamma_is_the_published_one(std: float, gamma: float) -> None:
    assert ema.gamma(std) == pytest.approx(gamma, abs=0.005)


@pytest.mark.parametrize("std", [0.02, 0.1, 0.25])
def test_the_profile_has_the_width_that_was_asked_for(std: float) -> None:
    # of the profile τ^γ over [0, 1]: mean (γ + 1)/(γ + 2), mean square (γ + 1)/(γ + 3)
    g = ema.gamma(std)
    assert ((g + 1) / (g + 3) - ((g + 1) / (g + 2)) ** 2) ** 0.5 == pytest.approx(std, rel=1e-6)


def test_the_average_is_the_closed_form() -> None:
    module = nn.Linear(3, 2).double()
    average = ema.average(module, schema.PowerEma(std=0.15))
    seen = []
    for step in range(1, 21):
        with torch.no_grad():
            module.weight.copy_(torch.full((2, 3), float(step) ** 2, dtype=torch.float64))
        average.step(module.parameters())
        seen.append(float(step) ** 2)
    g = ema.gamma(0.15)
    weights = []  # of step i: (1 − β_i)·β_{i+1}·…·β_20
    for i in range(1, 21):
        weight = 1 - (1 - 1 / i) ** (g + 1)
        for j in range(i + 1, 21):
            weight *= (1 - 1 / j) ** (g + 1)
        weights.append(weight)
    assert sum(weights) == pytest.approx(1)
    wanted = sum(w * x for w, x in zip(weights, seen, strict=True))
    assert average.shadow_params[0][0, 0].item() == pytest.approx(wanted, rel=1e-12)


def test_it_goes_on_from_its_state() -> None:
    torch.manual_seed(0)
    module = nn.Linear(4, 4)
    whole = ema.average(module, schema.PowerEma())
    again = ema.average(module, schema.PowerEma())
    for step in range(12):
        with torch.no_grad():
            module.weight.add_(torch.randn(4, 4))
        whole.step(module.parameters())
        if step == 5:
            state = {k: v for k, v in whole.state_dict().items()}
            state["shadow_params"] = [p.clone() for p in state["shadow_params"]]
            again.load_state_dict(state)
        elif step > 5:
            again.step(module.parameters())
    assert all(torch.equal(a, b) for a, b in zip(whole.shadow_params, again.shadow_params, strict=True))


def test_a_constant_decay_is_what_it_was() -> None:
    assert type(ema.average(nn.Linear(1, 1), 0.9)) is ema.EMAModel


@pytest.mark.parametrize(
    ("value", "expected"),
    [(1.0, "less than 1"), ({"kind": "power", "std": 0.3}, "less than 0.288"), ("much", "number")],
)
def test_what_is_no_average_is_refused(value: object, expected: str) -> None:
    with pytest.raises(ValidationError, match=expected):
        schema.Distill(ema_decay=value)


@pytest.mark.parametrize("decay", [0.5, 0.999])
def test_a_number_is_the_decay_that_a_warm_up_ends_at(decay: float) -> None:
    average = ema.average(nn.Linear(1, 1), decay)
    assert average.get_decay(1) == 0
    for step in (2, 10, 100, 8990, 10**6):
        assert average.get_decay(step) == pytest.approx(min(decay, step / (9 + step)))
