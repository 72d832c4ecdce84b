"""The guidance gate: what a lower precision costs the guidance, by branch and range of t, and whether that is too much.

A guided prediction is eps_uncond + w·Δ with the gap Δ = eps_cond − eps_uncond. Δ is small beside either branch,
so an error that is nothing to a branch may be as large as Δ itself. The gate measures both branches, the gap and
the guided prediction at the recipe's w against the student in torch, float32, rung by rung:
torch float32 → ONNX float32 → the artifact.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from dashdeploy.diffusion.denoiser import Denoiser
from dashdeploy.metrics import gap
from dashdeploy.metrics.gap import GapRow, Probes
from dashdeploy.recipe.schema import Guidance
from dashdeploy.target import GateLimits

Branches = tuple[torch.Tensor, torch.Tensor]
BATCH = 64


@dataclass(frozen=True)
class Rung:
    """One step of the ladder against torch float32: figures over all t and per range, and what is past its limit.

    excess: the largest figure over its limit; above 1 is a failure, infinite an output that is unusable.
    """

    name: str
    overall: GapRow
    bins: list[GapRow]
    excess: float
    failures: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "overall": self.overall.as_dict(),
            "bins": [row.as_dict() for row in self.bins],
            "excess": self.excess,
            "failures": self.failures,
        }


@dataclass(frozen=True)
class Gate:
    """The reference of a student: its outputs on fixed draws, and the limits that others are held to."""

    probes: Probes
    reference: Branches
    limits: GateLimits
    scale: Guidance
    num_train_timesteps: int
    batch_size: int = BATCH

    def judge(self, denoiser: Denoiser, name: str) -> Rung:
        """Measure a denoiser. Failures hold one line for each limit that is passed; an empty list is a pass."""
        found = gap.predict(denoiser, self.probes, batch_size=self.batch_size)
        broken = [p for part, out in zip(("uncond", "cond"), found, strict=True) for p in unusable(out, part)]
        overall, bins = gap.fidelity(
            found,
            self.reference,
            self.probes,
            scale=self.scale,
            num_train_timesteps=self.num_train_timesteps,
            bins=self.limits.t_bins,
        )
        bins = [row for row in bins if row.num]
        if broken:
            return Rung(name, overall, bins, math.inf, broken)
        ratios = over_limits(overall, bins, self.limits)
        return Rung(name, overall, bins, ratios[0][0], [text for ratio, text in ratios if not ratio <= 1])


def prepare(reference: Denoiser, probes: Probes, limits: GateLimits, *, scale: Guidance) -> Gate:
    """The gate of a student in torch, float32."""
    outputs = gap.predict(reference, probes, batch_size=BATCH)
    return Gate(probes, outputs, limits, scale, reference.interface.schedule.num_train_timesteps)


def unusable(out: torch.Tensor, branch: str) -> list[str]:
    """What is wrong with an output whatever was expected: not finite, all zero, constant."""
    if not torch.isfinite(out).all():
        share = float((~torch.isfinite(out)).float().mean())
        return [f"{branch}: NaN or Inf in {100 * share:.1f} % of the output"]
    flat = out.flatten(1)
    if (flat == 0).all(1).any():
        return [f"{branch}: an output that is all zero"]
    if (flat.std(1) == 0).any():
        return [f"{branch}: a constant output"]
    return []


def over_limits(overall: GapRow, bins: Sequence[GapRow], limits: GateLimits) -> list[tuple[float, str]]:
    """(figure over its limit, a line that says so) for each limit, the largest ratio first."""
    found: list[tuple[float, str]] = []

    def at_most(what: str, row: GapRow, value: float, limit: float) -> None:
        found.append((value / limit, f"{what}, t {row.t_low}–{row.t_high - 1}: {value:.4f}, limit {limit:g}"))

    at_most("gap relative error", overall, overall.relative_error, limits.gap_relative_error)
    lack = (1 - overall.energy_cosine) / max(1 - limits.gap_cosine, 1e-9)
    found.append((lack, f"gap cosine, all t: {overall.energy_cosine:.4f}, least {limits.gap_cosine:g}"))
    for row in bins:
        at_most("uncond branch error", row, row.uncond_error, limits.branch_error)
        at_most("cond branch error", row, row.cond_error, limits.branch_error)
        at_most("gap relative error", row, row.relative_error, limits.gap_relative_error_bin)
        at_most("guided error", row, row.guided_error, limits.guided_error)
    return sorted(found, key=lambda item: -item[0])


def table(rung: Rung) -> str:
    """The rung as lines of text, for an error message."""
    head = f"{'t':>9} {'uncond err.':>12} {'cond err.':>10} {'gap err.':>9} {'gap cos.':>9} {'guided err.':>12}"
    lines = [
        f"{f'{row.t_low}–{row.t_high - 1}':>9} {row.uncond_error:12.4f} {row.cond_error:10.4f} "
        f"{row.relative_error:9.4f} {row.energy_cosine:9.4f} {row.guided_error:12.4f}"
        for row in [*rung.bins, rung.overall]
    ]
    return "\n".join([head, *lines])
