"""The learning rate of each step, by diffusers' schedules."""

from __future__ import annotations

from collections.abc import Callable

from diffusers.optimization import get_scheduler
from torch.optim import Optimizer

from dashdeploy.recipe import schema

NAMES = {"cosine": "cosine", "constant": "constant_with_warmup"}
"""The recipe's lr_schedule -> diffusers' name."""


def learning_rate(optimizer: Optimizer, config: schema.Training, *, steps: int) -> Callable[[int], float]:
    """Step (from 0) of `steps` -> its rate: a linear warm-up, then half a cosine to zero, or constant.

    A function of the step, not a scheduler that is stepped: a checkpoint then needs no more than the step.
    """
    schedule = get_scheduler(
        NAMES[config.lr_schedule],
        optimizer,
        num_warmup_steps=config.warmup_steps,
        num_training_steps=steps,
    )
    factor = schedule.lr_lambdas[0]
    # diffusers' warm-up begins at a rate of 0, at which a step changes nothing; ours begins one step further on.
    return lambda step: config.learning_rate * factor(step + 1 if step < config.warmup_steps else step)
