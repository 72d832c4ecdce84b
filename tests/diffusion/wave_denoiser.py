"""A denoiser in closed form, so that only the sampler is under test."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from dashdeploy.diffusion import schedule
from dashdeploy.diffusion.denoiser import Interface
from dashdeploy.recipe.schema import NoiseSchedule

SCHEDULE = schedule.from_recipe(NoiseSchedule())
ZERO_SNR = schedule.NoiseSchedule(schedule.zero_terminal_snr(SCHEDULE.betas))
"""The same, rescaled so that no signal is left at its end."""


class Wave:
    """Waves over x, t and y; counts its calls.

    Args:
        changes: of its interface.
    """

    interface = Interface(num_classes=3, image_shape=(1, 4, 4), schedule=SCHEDULE)

    def __init__(self, **changes: Any) -> None:
        self.single = self.double = 0
        self.interface = replace(self.interface, **changes)

    def eps(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.sin(x + t.view(-1, 1, 1, 1) / 100 + y.view(-1, 1, 1, 1))

    def __call__(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        self.single += 1
        return self.eps(x, t, y)

    def branches(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.eps(x, t, torch.full_like(y, 3)), self.eps(x, t, y)

    def guided(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        self.double += 1
        uncond, cond = self.branches(x, t, y)
        return uncond + w.view(-1, 1, 1, 1) * (cond - uncond)
