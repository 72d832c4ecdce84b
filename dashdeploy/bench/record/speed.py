"""Speed-ups: ratios of medians, refused where the two did not do the same work."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dashdeploy.bench.record.parts import SCOPES, LatencyRow, Pair, PlanInfo


@dataclass(frozen=True)
class Ratio:
    """value: slow / fast; NaN where it is refused. refused: why; '' where the ratio stands."""

    value: float
    refused: str = ""
    slow: LatencyRow | None = None


def ratio(plans: Mapping[str, PlanInfo], slow: LatencyRow, fast: LatencyRow) -> Ratio:
    """The only division of one time by another's: same scope, batch, steps and guidance, or no figure."""
    if reasons := differences(plans, slow, fast):
        return Ratio(math.nan, f"{', '.join(reasons)} differ")
    if not (math.isfinite(slow.p50_ms) and fast.p50_ms > 0):
        return Ratio(math.nan, "a median is missing")
    return Ratio(slow.p50_ms / fast.p50_ms, slow=slow)


def differences(plans: Mapping[str, PlanInfo], a: LatencyRow, b: LatencyRow) -> list[str]:
    """In what the work of two rows differs; empty where their times can be set against each other."""
    if a.scope != b.scope:
        return [f"what was timed ({a.scope} and {b.scope})"]
    found = [f"batch sizes ({a.batch_size} and {b.batch_size})"] if a.batch_size != b.batch_size else []
    if a.plan is not None and b.plan is not None:
        found += plans[a.plan].differences(plans[b.plan])
    return found


def against(plans: Mapping[str, PlanInfo], candidates: Sequence[LatencyRow], fast: LatencyRow) -> Ratio:
    """The fastest of the candidates that did the same work as `fast`, over it; refused if none did."""
    found = [ratio(plans, row, fast) for row in candidates]
    standing = [r for r in found if not r.refused]
    if standing:
        return min(standing, key=lambda r: r.value)
    same_scope = [r for row, r in zip(candidates, found, strict=True) if row.scope == fast.scope]
    return Ratio(math.nan, same_scope[-1].refused if same_scope else f"no {fast.scope} was timed")


def pairs(
    plans: Mapping[str, PlanInfo], rows: Sequence[LatencyRow], *, slow: str, fast: str, batch_sizes: Sequence[int]
) -> list[Pair]:
    """slow over fast, each in the faster of its ways to run both branches, for every scope and batch size."""
    found = []
    for scope in SCOPES:
        for size in batch_sizes:
            own = [r for r in rows if (r.model, r.scope, r.batch_size) == (fast, scope, size)]
            others = [r for r in rows if (r.model, r.scope) == (slow, scope)]
            best = min(own, key=lambda r: r.p50_ms, default=None)
            got = against(plans, others, best) if best else Ratio(math.nan, f"{fast} was not timed at this batch")
            found.append(
                Pair(
                    batch_size=size,
                    scope=scope,
                    slow=slow,
                    fast=fast,
                    slow_branches=got.slow.branches if got.slow else "batched",
                    fast_branches=best.branches if best else "batched",
                    ratio=got.value,
                    refused=got.refused,
                )
            )
    return found


def refusals(found: Sequence[Pair]) -> list[str]:
    """A note on each pair without a ratio."""
    return [
        f"No speed-up of {p.fast} over {p.slow} ({p.scope}, batch {p.batch_size}): {p.refused}."
        for p in found
        if p.refused
    ]
