"""The timesteps of few-step students: a list for each number of steps.

A student sees t, x, y and w, and not how far its step goes. So each number of steps has timesteps of its own: those of
the most steps are spaced as Lin et al. 2024 (arXiv:2305.08891) have "trailing", and each smaller number of steps is
moved towards clean by a little more, so that t alone says which step is meant. A consistency student needs none of
that: whatever the next timestep, it says where the path ends.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from dashdeploy.errors import UserError

APART = 64
"""Grids are T/APART timesteps apart: at T = 1000 and a linear schedule the fourth begins at ᾱ = 1e-4."""
CLEAN = -1
"""The timestep of the clean image, where ᾱ = 1."""

Grid = tuple[int, ...]


def grids(steps: Sequence[int], num_train_timesteps: int, *, apart: bool = True) -> tuple[Grid, ...]:
    """A descending list of timesteps for each number of steps, in their order.

    The grid of one number of steps holds every timestep of that of half as many.

    Args:
        apart: no timestep is in two of them. False: all begin at the last timestep.

    Raises:
        UserError: there are too few timesteps for so many steps.
    """
    if not steps:
        return ()
    total = num_train_timesteps
    by_size = sorted(steps, reverse=True)
    made = {
        n: tuple(round(total * (n - i) / n) - 1 - apart * shift * max(1, total // APART) for i in range(n))
        for shift, n in enumerate(by_size)
    }
    every = [t for n in (by_size if apart else by_size[:1]) for t in made[n]]
    if min(every) < 0 or len(set(every)) < len(every):
        raise UserError(
            f"distill.objective.steps {list(steps)}: {total} timesteps are too few for these numbers of steps at once. "
            "Train a student for fewer of them."
        )
    return tuple(made[n] for n in steps)


def segments_of(some: Sequence[Grid]) -> list[tuple[int, int]]:
    """(t, the timestep that a step from it goes to) of all grids; the last step of each goes to CLEAN."""
    return [pair for grid in some for pair in itertools.pairwise((*grid, CLEAN))]
