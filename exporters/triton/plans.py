"""The plan of one image: timesteps, guidance scales and solver, of the artifact or as its request wishes.

The same rules as dashdeploy/diffusion/sampling.py and the C++ runtime's schedule.cpp; tests compare them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

CLEAN = -1
"""The timestep after the last: the clean image."""


@dataclass(frozen=True)
class Plan:
    """What the loop of one image does.

    Attributes:
        timesteps: N, descending.
        scales: (N,) float32, the guidance scale w at each.
        solver: ddim, dpmpp_2m or consistency.
        bars: (T + 1,) float32, the schedule's alpha_bar, with the clean image's, 1, first.
        clip: x_0 lies within [-1, 1].
    """

    timesteps: tuple[int, ...]
    scales: np.ndarray
    solver: str
    bars: np.ndarray
    clip: bool


class Plans:
    """Makes the plans of one artifact.

    Args:
        artifact: its part of the manifest, checked.
    """

    def __init__(self, artifact: dict[str, Any]) -> None:
        plan = artifact["sampling"]
        self.timesteps: list[int] = plan["timesteps"]
        self.solver: str = plan["solver"]
        self.range: list[float] | None = artifact["guidance_range"]
        self._usual = np.asarray(plan["guidance_scales"], np.float32)
        self._guidance, self._spacing, self._clip = plan["guidance"], plan["timestep_spacing"], plan["clip_sample"]
        self._grids: list[list[int]] = artifact["grids"]
        self._total: int = artifact["num_train_timesteps"]
        bars = np.cumprod(1.0 - np.asarray(artifact["betas"]))
        self._bars = np.concatenate([np.ones(1), bars]).astype(np.float32)
        if self.solver == "consistency":
            self.solvers: tuple[str, ...] = ("consistency",)
        else:  # a student of few steps was trained for DDIM's, others for none
            self.solvers = ("ddim",) if self._grids else ("ddim", "dpmpp_2m")

    def plan(self, *, steps: int = 0, scales: np.ndarray | None = None, solver: str = "") -> Plan:
        """A plan.

        Args:
            steps: 0: the artifact's.
            scales: (1,) or (N,) guidance scales; None: the artifact's, by its rule where the steps are others.
            solver: empty: the artifact's.

        Raises:
            ValueError: steps, a scale or a solver that the artifact does not have; the message says which it has.
        """
        solver = solver or self.solver
        if solver not in self.solvers:
            raise ValueError(f"solver is {ascii(solver)[:40]}; this student takes {' or '.join(self.solvers)}")
        timesteps = self._timesteps(steps)
        n = len(timesteps)
        if scales is None:
            usual = n == len(self._usual)
            w = self._usual if usual else np.array([self._weight(t) for t in timesteps], np.float32)
        elif scales.ndim != 1 or len(scales) not in (1, n):
            raise ValueError(
                f"guidance must be one number, or one for each of the {n} steps, got shape {list(scales.shape)}"
            )
        else:
            w = np.array(np.broadcast_to(scales, (n,)), np.float32)  # a copy: a server takes its tensors back
        self._check(w)
        return Plan(timesteps, w, solver, self._bars, self._clip)

    def _timesteps(self, steps: int) -> tuple[int, ...]:
        n = steps or len(self.timesteps)
        if self._grids:
            for grid in self._grids:
                if len(grid) == n:
                    return tuple(grid)
            known = ", ".join(str(len(grid)) for grid in self._grids)
            raise ValueError(f"steps is {n}; this student was trained for {known}")
        if not 1 <= n <= self._total:
            raise ValueError(f"steps is {n}; expected 1 ... {self._total}, or 0 for the artifact's")
        return tuple(self.timesteps if n == len(self.timesteps) else spaced(n, self._total, self._spacing))

    def _weight(self, t: int) -> float:
        """The artifact's guidance at a timestep; see dashdeploy/diffusion/guidance.py."""
        guidance = self._guidance
        if not isinstance(guidance, dict):
            return float(guidance)
        share = t / self._total
        if guidance["kind"] == "interval":
            return float(guidance["w"]) if guidance["low"] <= share < guidance["high"] else 1.0
        gate = 1.0 / (1.0 + math.exp(-guidance["beta"] * (0.5 - share)))
        low, high = guidance["w_min"], guidance["w_max"]
        return float(low + (high - low) * gate)

    def _check(self, w: np.ndarray) -> None:
        if not np.isfinite(w).all() or w.min() < 0:
            raise ValueError("guidance must be finite and not negative")
        if self.range is None:
            return
        # In float32: rounded to it, an end of the range may lie outside.
        low, high = np.asarray(self.range, np.float32)
        if not (low <= w.min() and w.max() <= high):
            raise ValueError(
                f"guidance must be within {self.range[0]:g} … {self.range[1]:g}: the student has one branch, trained "
                "for these"
            )


def spaced(n: int, total: int, spacing: str) -> list[int]:
    """n descending timesteps of `total`; leading, trailing and linspace as in arXiv:2305.08891, Table 2."""
    if spacing == "linspace":
        steps = np.linspace(0, total - 1, n).round()[::-1]
    elif spacing == "leading":
        steps = (np.arange(n) * (total // n))[::-1].astype(float)
    else:
        steps = np.round(np.arange(total, 0, -total / n))[:n] - 1
    return [int(step) for step in steps]
