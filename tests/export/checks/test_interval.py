"""Bounds of the gate's figures hold on other draws, and it is they that limits are compared with."""

from __future__ import annotations

import torch

from dashdeploy.export.checks import gate, interval
from dashdeploy.metrics import gap
from dashdeploy.metrics.gap import Probes
from tests.limits import LOOSE

TRAJECTORIES, POINTS, T = 32, 8, 1000
W = torch.full((TRAJECTORIES * POINTS,), 2.0)


def outputs(seed: int) -> tuple[Probes, tuple[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    """Probes with a reference and outputs whose errors differ from trajectory to trajectory: draws are not alike."""
    generator = torch.Generator().manual_seed(seed)
    trajectory = torch.arange(TRAJECTORIES).repeat(POINTS)
    t = (torch.arange(POINTS) * (T // POINTS) + 5).repeat_interleave(TRAJECTORIES)

    def normal() -> torch.Tensor:
        return torch.randn((len(t), 1, 4, 4), generator=generator)

    size = torch.exp(0.3 * torch.randn(TRAJECTORIES, generator=generator))[trajectory].view(-1, 1, 1, 1)
    uncond, difference = normal(), 0.3 * normal()
    reference = (uncond, uncond + difference)
    given = (uncond + 0.02 * size * normal(), reference[1] + 0.02 * size * normal())
    return Probes(normal(), t, torch.zeros_like(t), trajectory), given, reference


def test_a_bound_holds_for_what_many_draws_show() -> None:
    ranges = [(0, T), (0, 500)]
    found, figures = [], []
    for seed in range(200):
        probes, given, reference = outputs(seed)
        found.append(interval.bounds(given, reference, probes, w=W, ranges=ranges))
        rows = gap.fidelity(given, reference, probes, scale=2.0, num_train_timesteps=T, bins=2)
        figures.append([rows[0], rows[1][0]])
    names = ("relative_error", "uncond_error", "cond_error", "guided_error")
    for place in range(2):
        for name in names:
            values = torch.tensor([getattr(row[place], name) for row in figures]).double()
            truth = float(values.square().mean().sqrt())  # energies are alike, so that squares average
            bounds = torch.tensor([getattr(bound[place], name) for bound in found])
            covered = float((bounds >= truth).float().mean())
            # 97.5 % is aimed at; of 32 trajectories with unlike errors the bootstrap reaches a little less.
            assert covered >= 0.93, (name, place, covered)
            assert float(bounds.mean()) < 1.4 * truth, "a bound that says nothing"
        cosines = torch.tensor([row[place].energy_cosine for row in figures])
        least = torch.tensor([bound[place].energy_cosine for bound in found])
        assert float((least <= cosines.mean()).float().mean()) > 0.93


def test_draws_of_one_trajectory_are_not_taken_for_independent_ones() -> None:
    probes, given, reference = outputs(0)
    alone = Probes(probes.x_t, probes.t, probes.y)
    together, apart = (interval.bounds(given, reference, p, w=W, ranges=[(0, T)])[0] for p in (probes, alone))
    figure = gap.fidelity(given, reference, probes, scale=2.0, num_train_timesteps=T, bins=2)[0].relative_error
    assert figure < apart.relative_error < together.relative_error


def test_the_limit_is_held_against_the_bound_and_a_search_asks_for_more() -> None:
    probes, given, reference = outputs(0)
    overall, bins = gap.fidelity(given, reference, probes, scale=2.0, num_train_timesteps=T, bins=2)
    edges = [(row.t_low, row.t_high) for row in (overall, *bins)]
    bounds = interval.bounds(given, reference, probes, w=W, ranges=edges)
    figure, bound = overall.relative_error, bounds[0].relative_error

    def worst(limit: float, margin: float) -> float:
        limits = LOOSE.model_copy(update={"gap_relative_error": limit})
        held = gate.over_limits([overall, *bins], bounds, limits, margin=margin)
        return max(one.bound for one in held)

    between = (figure + bound) / 2
    assert figure < between < bound
    assert worst(between, margin=1) > 1, "a figure within its limit does not pass by itself"
    assert worst(1.01 * bound, margin=1) < 1
    assert worst(1.01 * bound, margin=gate.SEARCH_MARGIN) > 1
