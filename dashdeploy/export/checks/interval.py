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
QUANTILE = 0.975
"""A bound holds for this share of the resamples."""


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
    over draws, so that a resample is a weighted sum.

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
    results = []
    for low, high in ranges:
        inside = ((probes.t >= low) & (probes.t < high)).double()[:, None]
        by_group = torch.zeros(groups, sums.shape[1], dtype=torch.float64).index_add_(0, of, sums * inside)
        results.append(_bounds(counts @ by_group))
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


def _bounds(totals: torch.Tensor) -> Bounds:
    """From (resamples, 9) sums."""
    uncond, uncond_energy, cond, cond_energy, guided, guided_energy, inner, ours, theirs = totals.unbind(1)
    tiny = 1e-300

    def most(error: torch.Tensor, energy: torch.Tensor) -> float:
        return float((error / energy.clamp_min(tiny)).clamp_min(0).sqrt().quantile(QUANTILE))

    cosine = inner / (ours * theirs).sqrt().clamp_min(tiny)
    return Bounds(
        uncond_error=most(uncond, uncond_energy),
        cond_error=most(cond, cond_energy),
        relative_error=most(ours + theirs - 2 * inner, theirs),
        energy_cosine=float(cosine.quantile(1 - QUANTILE)),
        guided_error=most(guided, guided_energy),
    )
