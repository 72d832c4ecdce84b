from __future__ import annotations

import math

import pytest
import torch

from dashdeploy.recipe.schema import Training
from dashdeploy.training.rate import learning_rate


def rates(config: Training) -> list[float]:
    """The rate of every step."""
    optimizer = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=config.learning_rate)
    rate = learning_rate(optimizer, config, steps=config.steps)
    return [rate(step) for step in range(config.steps)]


def test_the_rate_warms_up_then_falls_along_half_a_cosine_to_zero() -> None:
    found = rates(Training(steps=110, warmup_steps=10, learning_rate=1.0))
    assert found[0] == pytest.approx(0.1)
    assert found[9] == pytest.approx(1.0)
    assert found[60] == pytest.approx(0.5)
    assert found[-1] == pytest.approx(0.0, abs=1e-3)
    constant = rates(Training(steps=110, warmup_steps=10, learning_rate=1.0, lr_schedule="constant"))
    assert [constant[step] for step in (9, 50, 109)] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
@pytest.mark.parametrize(("steps", "warmup"), [(2200, 100), (6000, 200), (12, 12), (7, 0), (1, 0), (1, 1)])
@pytest.mark.parametrize("peak", [2e-3, 5e-4, 1 / 3])
def test_every_step_has_bit_for_bit_the_rate_of_the_formula(
    schedule: str, steps: int, warmup: int, peak: float
) -> None:
    def formula(step: int) -> float:
        warm = min(1.0, (step + 1) / warmup) if warmup else 1.0
        done = max(0, step - warmup) / max(1, steps - warmup)
        return peak * warm * (0.5 * (1 + math.cos(math.pi * done)) if schedule == "cosine" else 1.0)

    config = Training(steps=steps, warmup_steps=warmup, learning_rate=peak, lr_schedule=schedule)
    assert rates(config) == [formula(step) for step in range(steps)]
