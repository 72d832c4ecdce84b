"""Speed-ups: ratios of medians, refused where the two did not do the same work."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dashdeploy.bench.record.intervals import ratio_interval
from dashdeploy.bench.record.parts import PlanInfo
from dashdeploy.bench.record.times import SCOPES, GuidanceIntervalStudy, LatencyRow, Pair

SAME_GRAPH = "one graph ran both"
NOISE = "within the noise"
FEW_RUNS = "too few runs for an interval"


@dataclass(frozen=True)
class Ratio:
    """A ratio of two medians.

    Attributes:
        value: slow / fast; NaN where it is refused.
        low, high: its 95 % confidence interval; NaN where there were too few runs for one.
        refused: why; '' where the ratio stands.
        slow: the slower row; None where the ratio is refused.
    """

    value: float
    low: float = math.nan
    high: float = math.nan
    refused: str = ""
    slow: LatencyRow | None = None

    @property
    def is_noise(self) -> bool:
        """Whether the confidence interval holds 1: no difference was seen."""
        return self.low <= 1 <= self.high


def ratio(plans: Mapping[str, PlanInfo], slow: LatencyRow, fast: LatencyRow) -> Ratio:
    """A speed-up: same scope, batch and plan, or no figure."""
    if reasons := differences(plans, slow, fast):
        return Ratio(math.nan, refused=f"{', '.join(reasons)} differ")
    return _of_medians(slow, fast)


def at_own_steps(slow: LatencyRow, fast: LatencyRow) -> Ratio:
    """The ratio of two whole samplers at one batch, each with its own steps: only beside the quality of both."""
    if (slow.scope, fast.scope) != ("sampler", "sampler") or slow.batch_size != fast.batch_size:
        return Ratio(math.nan, refused="not two whole samplers at one batch")
    return _of_medians(slow, fast)


def _of_medians(slow: LatencyRow, fast: LatencyRow) -> Ratio:
    if not (math.isfinite(slow.p50_ms) and fast.p50_ms > 0):
        return Ratio(math.nan, refused="a median is missing")
    low, high = (1.0, 1.0) if slow is fast else ratio_interval(fast.p50, slow.p50)
    return Ratio(slow.p50_ms / fast.p50_ms, low, high, slow=slow)


def differences(plans: Mapping[str, PlanInfo], a: LatencyRow, b: LatencyRow) -> list[str]:
    """In what the work of two rows differs; empty where their times can be compared."""
    if a.scope != b.scope:
        return [f"what was timed ({a.scope} and {b.scope})"]
    differing = [f"batch sizes ({a.batch_size} and {b.batch_size})"] if a.batch_size != b.batch_size else []
    if a.plan is not None and b.plan is not None:
        differing += plans[a.plan].differences(plans[b.plan])
    return differing


def against(plans: Mapping[str, PlanInfo], candidates: Sequence[LatencyRow], fast: LatencyRow) -> Ratio:
    """The fastest of the candidates that did the same work as `fast`, over it; refused if none did."""
    ratios = [ratio(plans, row, fast) for row in candidates]
    standing = [r for r in ratios if not r.refused]
    if standing:
        return min(standing, key=lambda r: r.value)
    same_scope = [r for row, r in zip(candidates, ratios, strict=True) if row.scope == fast.scope]
    return Ratio(math.nan, refused=same_scope[-1].refused if same_scope else f"no {fast.scope} was timed")


def pairs(
    plans: Mapping[str, PlanInfo], rows: Sequence[LatencyRow], *, slow: str, fast: str, batch_sizes: Sequence[int]
) -> list[Pair]:
    """slow over fast, each with its faster branches (batched or two-pass), for every scope and batch size."""
    made = []
    for scope in SCOPES:
        slow_rows = [r for r in rows if (r.model, r.scope) == (slow, scope)]
        for size in batch_sizes:
            fast_rows = [r for r in rows if (r.model, r.scope, r.batch_size) == (fast, scope, size)]
            best = min(fast_rows, key=lambda r: r.p50_ms, default=None)
            missing = Ratio(math.nan, refused=f"{fast} was not timed at this batch")
            over = against(plans, slow_rows, best) if best else missing
            made.append(
                Pair(
                    batch_size=size,
                    scope=scope,
                    slow=slow,
                    fast=fast,
                    slow_branches=over.slow.branches if over.slow else "batched",
                    fast_branches=best.branches if best else "batched",
                    ratio=over.value,
                    low=over.low,
                    high=over.high,
                    refused=over.refused,
                )
            )
    return made


def refusals(pairs_made: Sequence[Pair]) -> list[str]:
    """A note on each pair without a ratio."""
    return [
        f"No speed-up of {p.fast} over {p.slow} ({p.scope}, batch {p.batch_size}): {p.refused}."
        for p in pairs_made
        if p.refused
    ]


@dataclass(frozen=True)
class Saving:
    """The share of a time that is saved.

    Attributes:
        value: NaN where no saving was seen.
        low, high: its 95 % confidence interval.
        none: why no saving was seen; '' where one was.
    """

    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    none: str = ""


def saved(study: GuidanceIntervalStudy, batch_size: int) -> Saving:
    """What the interval saves of the constant plan's median time; below zero it takes longer.

    Where one graph runs both plans it does the same work, and a difference of two times is chance.
    """
    constant, interval = (study.row(plan, batch_size) for plan in (study.constant_plan, study.interval_plan))
    if constant is None or interval is None:
        return Saving(none="not timed")
    if constant.graph == interval.graph == "sampler":
        return Saving(none=SAME_GRAPH)
    low, high = ratio_interval(constant.p50, interval.p50)
    if not math.isfinite(low + high):
        return Saving(none=FEW_RUNS)
    if low <= 1 <= high:
        return Saving(none=NOISE)
    return Saving(1 - interval.p50_ms / constant.p50_ms, 1 - high, 1 - low)
