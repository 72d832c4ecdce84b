"""Parity: how closely an artifact follows the student in torch, per branch, batch size and range of t."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Literal

import torch

from dashdeploy import seeds
from dashdeploy.diffusion import guidance
from dashdeploy.diffusion.denoiser import Denoiser
from dashdeploy.errors import UserError
from dashdeploy.figures import Parity, ParityRow
from dashdeploy.recipe.schema import Guidance
from dashdeploy.target import ParityLimits

Branch = Literal["uncond", "cond", "guided"]


@torch.no_grad()
def check(
    artifact: Denoiser,
    reference: Denoiser,
    limits: ParityLimits,
    *,
    scale: Guidance,
    seed: int,
    on_row: Callable[[], None] | None = None,
) -> Parity:
    """Compare an artifact with its reference on noisy inputs; each branch by itself, then guided at the recipe's scale.

    Of one branch only the guided prediction is there, at scales in its range.

    Raises:
        UserError: a limit is passed, or an output is NaN, infinite, constant or of another shape; it names the worst.
    """
    steps = reference.interface.schedule.num_train_timesteps
    edges = [round(i * steps / limits.t_bins) for i in range(limits.t_bins + 1)]
    rows: list[ParityRow] = []
    for batch_size in limits.batch_sizes:
        for low, high in itertools.pairwise(edges):
            x, t, y = draw(reference, batch_size, low, high, seed=seed)
            w = torch.tensor([guidance.weight(scale, int(v), steps) for v in t])
            w = reference.interface.varied(w)
            weights: dict[Branch, torch.Tensor] = {"guided": w}
            if reference.interface.branches == 2:
                weights = {"uncond": torch.zeros(batch_size), "cond": torch.ones(batch_size), "guided": w}
                uncond, cond = reference.branches(x, t, y)
                expected = {"uncond": uncond, "cond": cond, "guided": guidance.combine(uncond, cond, w)}
            else:
                expected = {"guided": reference.guided(x, t, y, w)}
            for branch, scales in weights.items():
                rows.append(compare(artifact.guided(x, t, y, scales), expected[branch], branch, low, high))
            if on_row is not None:
                on_row()
    worst = max(rows, key=lambda row: (row.problem is not None, row.relative_error))
    if worst.problem is not None or worst.relative_error > limits.relative_error:
        raise UserError(_failure(rows, worst, limits))
    bounds = {"relative_error": limits.relative_error, "sampler_error": limits.sampler_error}
    return Parity(limits=bounds, worst=worst, rows=tuple(rows))


def compare(output: torch.Tensor, expected: torch.Tensor, branch: Branch, low: int, high: int) -> ParityRow:
    """One row: the worst image's relative error, and the problem of an unusable output."""
    problem = None
    error = float("inf")
    if output.shape != expected.shape:
        problem = f"shape {tuple(output.shape)}, expected {tuple(expected.shape)}"
    elif not torch.isfinite(output).all():
        problem = "NaN or Inf"
    elif (output.flatten(1).std(1) == 0).any():
        problem = "constant output"
    else:
        difference = (output.double() - expected.double()).flatten(1).norm(dim=1)
        error = float((difference / expected.double().flatten(1).norm(dim=1)).max())
    return ParityRow(
        branch=branch, batch_size=len(expected), t_low=low, t_high=high, relative_error=error, problem=problem
    )


def draw(
    reference: Denoiser, batch_size: int, low: int, high: int, *, seed: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(x_t, t, y) of a batch with low ≤ t < high, from smooth random images."""
    interface = reference.interface
    generator = torch.Generator().manual_seed(seeds.derive(seed, "parity", batch_size, low))
    t = torch.randint(low, high, (batch_size,), generator=generator)
    y = torch.randint(0, interface.num_classes, (batch_size,), generator=generator)
    shape = (batch_size, *interface.image_shape)
    # Flat patches stand for images: they have an image's range and low frequencies at every noise level.
    coarse = torch.rand((batch_size, interface.image_shape[0], 4, 4), generator=generator) * 2 - 1
    x_0 = torch.nn.functional.interpolate(coarse, size=interface.image_shape[1:], mode="bilinear")
    return interface.schedule.add_noise(x_0, torch.randn(shape, generator=generator), t), t, y


def _failure(rows: list[ParityRow], worst: ParityRow, limits: ParityLimits) -> str:
    failed = [row for row in rows if row.problem or row.relative_error > limits.relative_error]
    what = worst.problem or f"relative error {worst.relative_error:.2e}, limit {limits.relative_error:.0e}"
    return (
        f"parity failed in {len(failed)} of {len(rows)} checks; the worst: {worst.branch} branch at batch "
        f"{worst.batch_size}, t {worst.t_low}–{worst.t_high - 1}: {what}. No artifact was written. "
        "Try another opset or group_norm in the target file."
    )
