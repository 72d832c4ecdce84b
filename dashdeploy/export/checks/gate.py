"""The guidance gate: what a lower precision costs the guidance, by branch and range of t, and whether that is too much.

A guided prediction is eps_uncond + w·Δ with the gap Δ = eps_cond − eps_uncond. Δ is small beside either branch,
so an error that is nothing to a branch may be as large as Δ itself. The gate measures both branches, the gap and
the guided prediction at the recipe's w against the student in torch, float32, rung by rung:
torch float32 → ONNX float32 → the artifact.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from dashdeploy import seeds
from dashdeploy.diffusion.denoiser import Denoiser
from dashdeploy.export.checks import trajectories
from dashdeploy.figures import GapRow, Rung
from dashdeploy.metrics import gap
from dashdeploy.metrics.gap import Probes
from dashdeploy.recipe.schema import Guidance, Sampling
from dashdeploy.target import GateLimits, Target

Branches = tuple[torch.Tensor, torch.Tensor]
BATCH = 64


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
        """Measure a denoiser; no failures are a pass."""
        outputs = gap.predict(denoiser, self.probes, batch_size=self.batch_size)
        broken = [p for part, out in zip(("uncond", "cond"), outputs, strict=True) for p in unusable(out, part)]
        overall, all_bins = gap.fidelity(
            outputs,
            self.reference,
            self.probes,
            scale=self.scale,
            num_train_timesteps=self.num_train_timesteps,
            bins=self.limits.t_bins,
        )
        bins = tuple(row for row in all_bins if row.num)
        if broken:
            return Rung(name=name, overall=overall, bins=bins, excess=math.inf, failures=tuple(broken))
        ratios = over_limits(overall, bins, self.limits)
        failures = tuple(text for ratio, text in ratios if not ratio <= 1)
        return Rung(name=name, overall=overall, bins=bins, excess=ratios[0][0], failures=failures)


def prepare(reference: Denoiser, probes: Probes, limits: GateLimits, *, scale: Guidance) -> Gate:
    """The gate of a student in torch, float32."""
    outputs = gap.predict(reference, probes, batch_size=BATCH)
    return Gate(probes, outputs, limits, scale, reference.interface.schedule.num_train_timesteps)


def for_target(reference: Denoiser, sampling: Sampling, target: Target, *, seed: int) -> Gate:
    """The gate that a target's artifact must pass, on draws along the sampler's trajectories.

    Calibration draws along others, so that the gate does not judge a quantizer on what it has seen.
    """
    points = min(target.gate.t_bins, sampling.num_inference_steps)
    probes = trajectories.draw(
        reference,
        sampling,
        num_images=max(2, -(-target.gate.num_draws // points)),
        num_points=points,
        seed=seeds.derive(seed, "gate"),
    )
    gate = prepare(reference, probes, target.gate, scale=sampling.guidance)
    return dataclasses.replace(gate, batch_size=min(BATCH, target.largest_batch or BATCH))


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
    ratios: list[tuple[float, str]] = []

    def at_most(what: str, row: GapRow, value: float, limit: float) -> None:
        ratios.append((value / limit, f"{what}, t {row.t_low}–{row.t_high - 1}: {value:.4f}, limit {limit:g}"))

    at_most("gap relative error", overall, overall.relative_error, limits.gap_relative_error)
    lack = (1 - overall.energy_cosine) / max(1 - limits.gap_cosine, 1e-9)
    ratios.append((lack, f"gap cosine, all t: {overall.energy_cosine:.4f}, least {limits.gap_cosine:g}"))
    for row in bins:
        at_most("uncond branch error", row, row.uncond_error, limits.branch_error)
        at_most("cond branch error", row, row.cond_error, limits.branch_error)
        at_most("gap relative error", row, row.relative_error, limits.gap_relative_error_bin)
        at_most("guided error", row, row.guided_error, limits.guided_error)
    return sorted(ratios, key=lambda item: -item[0])


def table(rung: Rung) -> str:
    """The rung as lines of text, for an error message."""
    head = f"{'t':>9} {'uncond err.':>12} {'cond err.':>10} {'gap err.':>9} {'gap cos.':>9} {'guided err.':>12}"
    lines = [
        f"{f'{row.t_low}–{row.t_high - 1}':>9} {row.uncond_error:12.4f} {row.cond_error:10.4f} "
        f"{row.relative_error:9.4f} {row.energy_cosine:9.4f} {row.guided_error:12.4f}"
        for row in [*rung.bins, rung.overall]
    ]
    return "\n".join([head, *lines])


def failure(rung: Rung, precision: str) -> str:
    """The message of a rung that failed, with its table."""
    more = f" (and {len(rung.failures) - 1} more)" if len(rung.failures) > 1 else ""
    return (
        f"the guidance gate failed at {precision}: {rung.failures[0]}{more}. No artifact was written.\n"
        f"{table(rung)}\nThe last line is over all t."
    )
