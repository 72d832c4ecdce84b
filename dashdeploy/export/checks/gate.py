"""The guidance gate: what a lower precision costs the guidance, by branch and range of t, and whether that is too much.

A guided prediction is uncond + w·Δ with the gap Δ = cond − uncond. Δ is small beside either branch, so an error that is
nothing to a branch may be as large as Δ itself. The gate measures both branches, the gap and the guided prediction at
the recipe's w against the student in torch, float32, rung by rung: torch float32 → ONNX float32 → the artifact. It does
so in what the student predicts (eps, v or x_0), as the network's output. Of one branch its response to guidance takes
the place of the gap, see `gap.as_branches`, and is asked for over the whole range of scales, see `asked`.

It judges on draws that had part in no choice, and compares with each limit not the figure, but its bound on other
draws: an artifact whose figure lies at a limit would exceed it on half of them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from dashdeploy import seeds
from dashdeploy.diffusion.denoiser import Denoiser, Interface
from dashdeploy.export.checks import interval, trajectories
from dashdeploy.figures import Bounds, GapRow, Rung
from dashdeploy.metrics import gap
from dashdeploy.metrics.gap import Probes
from dashdeploy.recipe.schema import Guidance, Sampling
from dashdeploy.target import GateLimits, Target

Branches = tuple[torch.Tensor, torch.Tensor]
BATCH = 64
SEARCH_MARGIN = 1 + math.sqrt(2)
"""A search takes what its own draws show to pass on others: the figure of equally many others differs from its own by
√2 times as much as one set's from the truth, and that figure's bound is compared with the limit."""


class Held(NamedTuple):
    """A figure and its bound, each over the limit, and a line that says what they are."""

    ratio: float
    bound: float
    text: str


@dataclass(frozen=True)
class Gate:
    """The reference of a student: its outputs on fixed draws, and the limits that others are held to.

    margin: how many times the distance from a figure to its bound counts, in logarithms.
    """

    probes: Probes
    reference: Branches
    limits: GateLimits
    scale: Guidance
    num_train_timesteps: int
    batch_size: int = BATCH
    margin: float = 1.0

    def judge(self, denoiser: Denoiser, name: str) -> Rung:
        """Measure a denoiser; no failures are a pass."""
        w = asked(denoiser.interface, self.scale, self.probes)
        own = denoiser.interface.prediction
        outputs = gap.predict(denoiser, self.probes, batch_size=self.batch_size, w=w, prediction=own)
        broken = [p for part, out in zip(("uncond", "cond"), outputs, strict=True) for p in unusable(out, part)]
        overall, all_bins = gap.fidelity(
            outputs,
            self.reference,
            self.probes,
            scale=w,
            num_train_timesteps=self.num_train_timesteps,
            bins=self.limits.t_bins,
        )
        bins = tuple(row for row in all_bins if row.num)
        if broken:
            return Rung(name=name, overall=overall, bins=bins, excess=math.inf, failures=tuple(broken))
        edges = [(row.t_low, row.t_high) for row in (overall, *bins)]
        bounds = tuple(interval.bounds(outputs, self.reference, self.probes, w=w, ranges=edges))
        held = over_limits([overall, *bins], bounds, self.limits, margin=self.margin)
        return Rung(
            name=name,
            overall=overall,
            bins=bins,
            bounds=bounds,
            excess=max(one.ratio for one in held),
            excess_bound=held[0].bound,
            failures=tuple(one.text for one in held if not one.bound <= 1),
        )


def asked(interface: Interface, scale: Guidance, probes: Probes) -> torch.Tensor:
    """The guidance scale that each probe is judged at, (N,) float32: of two branches the recipe's.

    Of one branch w goes through the network, which may be right at one scale and wrong at another. So every third
    trajectory is judged at the recipe's scale, every third at each end of the range; where that is the scale that the
    response counts from, in the middle between it and the other end. Neighbouring probes have other scales: an artifact
    that takes one for a whole batch has another response, however small that is beside its output.
    """
    w = gap.scales(scale, probes, interface.schedule.num_train_timesteps)
    if interface.guidance_range is None:
        return w
    low, high = interface.guidance_range
    ends = [(low + high) / 2 if abs(end - interface.base_scale) <= gap.NEAR else end for end in (low, high)]
    turn = (torch.arange(len(w)) if probes.trajectory is None else probes.trajectory) % 3
    return torch.where(turn == 0, w, torch.where(turn == 1, ends[1], ends[0]))


def prepare(reference: Denoiser, probes: Probes, limits: GateLimits, *, scale: Guidance) -> Gate:
    """The gate of a student in torch, float32."""
    total, own = reference.interface.schedule.num_train_timesteps, reference.interface.prediction
    w = asked(reference.interface, scale, probes)
    outputs = gap.predict(reference, probes, batch_size=BATCH, w=w, prediction=own)
    return Gate(probes, outputs, limits, scale, total)


def for_target(reference: Denoiser, sampling: Sampling, target: Target, *, seed: int, search: bool = False) -> Gate:
    """The gate that a target's artifact must pass, on draws along the sampler's trajectories.

    Calibration and the search for sensitive layers draw along others: the gate judges on what neither has seen.

    Args:
        search: the gate of that search, which asks for enough to pass on other draws too.
    """
    points = min(target.gate.t_bins, sampling.num_inference_steps)
    probes = trajectories.draw(
        reference,
        sampling,
        num_images=max(2, -(-target.gate.num_draws // points)),
        num_points=points,
        seed=seeds.derive(seed, "gate-search" if search else "gate"),
    )
    gate = prepare(reference, probes, target.gate, scale=sampling.guidance)
    margin = SEARCH_MARGIN if search else 1.0
    return dataclasses.replace(gate, batch_size=min(BATCH, target.largest_batch or BATCH), margin=margin)


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


def over_limits(
    rows: Sequence[GapRow], bounds: Sequence[Bounds], limits: GateLimits, *, margin: float = 1.0
) -> list[Held]:
    """Every limit with what is held to it, the largest bound first; rows: over all t, then in ranges of t."""
    held: list[Held] = []

    def at_most(what: str, row: GapRow, value: float, bound: float, limit: float) -> None:
        bound = _further(value, bound, margin)
        text = f"{what}, t {row.t_low}–{row.t_high - 1}: {value:.4f}, on other draws up to {bound:.4f}, limit {limit:g}"
        held.append(Held(value / limit, bound / limit, text))

    (overall, *bins), (of_overall, *of_bins) = rows, bounds
    at_most("gap relative error", overall, overall.relative_error, of_overall.relative_error, limits.gap_relative_error)
    cosine, room = overall.energy_cosine, max(1 - limits.gap_cosine, 1e-9)
    least = 1 - _further(1 - cosine, 1 - of_overall.energy_cosine, margin)
    text = f"gap cosine, all t: {cosine:.4f}, on other draws down to {least:.4f}, least {limits.gap_cosine:g}"
    held.append(Held((1 - cosine) / room, (1 - least) / room, text))
    for row, bound in zip(bins, of_bins, strict=True):
        at_most("uncond branch error", row, row.uncond_error, bound.uncond_error, limits.branch_error)
        at_most("cond branch error", row, row.cond_error, bound.cond_error, limits.branch_error)
        at_most("gap relative error", row, row.relative_error, bound.relative_error, limits.gap_relative_error_bin)
        at_most("guided error", row, row.guided_error, bound.guided_error, limits.guided_error)
    return sorted(held, key=lambda one: -one.bound)


def _further(value: float, bound: float, margin: float) -> float:
    """A bound that is `margin` times as far from its figure, on the scale of logarithms that bounds are made on."""
    return value * (bound / value) ** margin if value > 0 else bound


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
