"""How far the guidance gate's figures would move on other draws: a bootstrap over trajectories."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch

from dashdeploy import seeds
from dashdeploy.diffusion import guidance
from dashdeploy.figures import Bounds
from dashdeploy.metrics.gap import Probes

RESAMPLES = 400
TINY = 1e-300
NORMAL = 1.96
"""The normal quantile of 97.5 %."""


def bounds(
    given: tuple[torch.Tensor, torch.Tensor],
    reference: tuple[torch.Tensor, torch.Tensor],
    probes: Probes,
    *,
    w: torch.Tensor,
    ranges: Sequence[tuple[int, int]],
    seed: int = 0,
) -> list[Bounds]:
    """Bounds of the figures of `gap.fidelity` in each range of t, low ≤ t < high.

    Draws of one trajectory are resampled together, because they are not independent. Every figure is a ratio of sums
    over draws, so that a resample is a weighted sum. A bound is the figure times exp(q·s), with s the standard
    deviation of its logarithm over the resamples and q Student's quantile for so many trajectories: errors differ by
    factors from one trajectory to another, and quantiles of the resamples lie too low.

    Args:
        given, reference: (eps_uncond, eps_cond) on all probes.
        w: (N,) guidance scale of each probe.
    """
    sums = _sums(given, reference, w.double())
    of = torch.arange(len(probes.t)) if probes.trajectory is None else probes.trajectory.unique(return_inverse=True)[1]
    groups = int(of.max()) + 1
    generator = torch.Generator().manual_seed(seeds.derive(seed, "bounds"))
    rows = torch.randint(0, groups, (RESAMPLES, groups), generator=generator)
    counts = torch.zeros(RESAMPLES, groups, dtype=torch.float64).scatter_add_(1, rows, torch.ones(rows.shape).double())
    # Student's quantile by its expansion in 1/degrees of freedom (Abramowitz & Stegun 26.7.5).
    quantile = NORMAL + (NORMAL**3 + NORMAL) / (4 * max(1, groups - 1))
    results = []
    for low, high in ranges:
        inside = ((probes.t >= low) & (probes.t < high)).double()[:, None]
        by_group = torch.zeros(groups, sums.shape[1], dtype=torch.float64).index_add_(0, of, sums * inside)
        figure, resampled = _figures(by_group.sum(0, keepdim=True))[0], _figures(counts @ by_group)
        bound = figure * torch.exp(quantile * resampled.log().std(0))
        uncond, cond, gap, guided, lack = bound.tolist()
        results.append(
            Bounds(
                uncond_error=uncond,
                cond_error=cond,
                relative_error=gap,
                energy_cosine=1 - lack,
                guided_error=guided,
            )
        )
    return results


def _sums(
    given: tuple[torch.Tensor, torch.Tensor], reference: tuple[torch.Tensor, torch.Tensor], w: torch.Tensor
) -> torch.Tensor:
    """(N, 9) float64: of each draw the squared error and energy of both branches and of the guided output, and gaps."""
    ours, theirs = ((uncond.double(), cond.double()) for uncond, cond in (given, reference))
    pairs = [*zip(ours, theirs, strict=True), (guidance.combine(*ours, w), guidance.combine(*theirs, w))]
    flat = [((a - b).flatten(1).square().sum(1), b.flatten(1).square().sum(1)) for a, b in pairs]
    gap, wanted = ((cond - uncond).flatten(1) for uncond, cond in (ours, theirs))
    gaps = ((gap * wanted).sum(1), gap.square().sum(1), wanted.square().sum(1))
    return torch.stack([*itertools.chain(*flat), *gaps], 1)


def _figures(totals: torch.Tensor) -> torch.Tensor:
    """(R, 5) from (R, 9) sums: relative errors of uncond, cond, gap and guided, and what the cosine lacks to 1."""
    uncond, uncond_energy, cond, cond_energy, guided, guided_energy, inner, ours, theirs = totals.unbind(1)
    gap = ours + theirs - 2 * inner
    pairs = ((uncond, uncond_energy), (cond, cond_energy), (gap, theirs), (guided, guided_energy))
    errors = [(error.clamp_min(TINY) / energy.clamp_min(TINY)).sqrt() for error, energy in pairs]
    lack = 1 - inner / (ours * theirs).sqrt().clamp_min(TINY)
    return torch.stack([*errors, lack.clamp_min(TINY)], 1)
