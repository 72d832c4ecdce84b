"""Draws of (x_t, t, y) along the student's trajectories: what a deployed network really sees.

Calibration and the guidance gate both use them: noise added to images, or pure noise, has other ranges,
and a scale that fits those clips the real ones.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from dashdeploy import seeds
from dashdeploy.diffusion.denoiser import Denoiser, Interface
from dashdeploy.diffusion.sampling import SOLVERS, plan
from dashdeploy.metrics.gap import Probes
from dashdeploy.recipe.schema import Sampling


class Recorder:
    """A denoiser that remembers its inputs at some calls."""

    def __init__(self, inner: Denoiser, wanted: Callable[[int], bool]) -> None:
        self.inner, self.interface, self.wanted = inner, inner.interface, wanted
        self.seen: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
        self.calls = 0

    def _note(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> None:
        if self.wanted(self.calls):
            self.seen.append((x, t, y))
        self.calls += 1

    def __call__(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        self._note(x, t, y)
        return self.inner(x, t, y)

    def branches(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Both branches."""
        self._note(x, t, y)
        return self.inner.branches(x, t, y)

    def guided(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        """Guided eps."""
        self._note(x, t, y)
        return self.inner.guided(x, t, y, w)


@torch.no_grad()
def draw(
    denoiser: Denoiser, sampling: Sampling, *, num_images: int, num_points: int, seed: int, batch_size: int = 64
) -> Probes:
    """num_images·num_points draws: each trajectory at num_points steps, spread evenly from noise to image.

    Classes come in turn; every second image is drawn without guidance (of one branch: at the scale of its range that is
    nearest to 1), the others with the recipe's.
    x_t: (N, C, H, W) float32; t, y, trajectory: (N,) int64.
    """
    interface: Interface = denoiser.interface
    total = interface.schedule.num_train_timesteps
    steps = min(sampling.num_inference_steps, total)
    points = {round(i * (steps - 1) / max(1, num_points - 1)) for i in range(num_points)}
    draws: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    trajectories: list[torch.Tensor] = []
    for half, scale in enumerate((sampling.guidance, interface.base_scale)):
        labels = torch.arange(half, num_images, 2) // 2 % interface.num_classes
        for start in range(0, len(labels), batch_size):
            y = labels[start : start + batch_size]
            generator = torch.Generator().manual_seed(seeds.derive(seed, "trajectories", half, start))
            run = plan(sampling, total, scale=scale, grids=interface.grids)
            noise = torch.randn((len(y), *interface.noise_shape(run)), generator=generator)
            recorder = Recorder(denoiser, points.__contains__)
            SOLVERS[sampling.solver](recorder, noise, y, run)
            draws += recorder.seen
            trajectories += [torch.arange(len(y)) + half * num_images + start] * len(recorder.seen)
    x_t, t, y = (torch.cat(parts) for parts in zip(*draws, strict=True))
    return Probes(x_t, t, y, torch.cat(trajectories))
