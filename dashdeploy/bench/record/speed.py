"""Speed-ups: ratios of medians, refused where the two did not do the same work."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dashdeploy.bench.record.parts import SCOPES, LatencyRow, Pair, PlanInfo


@dataclass(frozen=True)
class Ratio:
    """A ratio of two medians.

    Attributes:
        value: slow / fast; NaN where it is refused.
        refused: why; '' where the ratio stands.
        slow: the slower row; None where the ratio is refused.
    """

    value: float
    refused: str = ""
    slow: LatencyRow | None = None


def ratio(plans: Mapping[str, PlanInfo], slow: LatencyRow, fast: LatencyRow) -> Ratio:
    """The only place where one model's time is divided by another's: same scope, batch and plan, or no figure."""
    if reasons := differences(plans, slow, fast):
        return Ratio(math.nan, f"{', '.join(reasons)} differ")
    if not (math.isfinite(slow.p50_ms) and fast.p50_ms > 0):
        return Ratio(math.nan, "a median is missing")
    return Ratio(slow.p50_ms / fast.p50_ms, slow=slow)


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
    return Ratio(math.nan, same_scope[-1].refused if same_scope else f"no {fast.scope} was timed")


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
            over = against(plans, slow_rows, best) if best else Ratio(math.nan, f"{fast} was not timed at this batch")
            made.append(
                Pair(
                    batch_size=size,
                    scope=scope,
                    slow=slow,
                    fast=fast,
                    slow_branches=over.slow.branches if over.slow else "batched",
                    fast_branches=best.branches if best else "batched",
                    ratio=over.value,
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
