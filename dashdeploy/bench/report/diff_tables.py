"""A comparison of two records on the terminal."""

from __future__ import annotations

import math

from dashdeploy.bench.record.diff import GROUPS, Change, Diff
from dashdeploy.bench.report.cells import MISSING, count, significant
from dashdeploy.bench.report.table import Table

HEADINGS = ("Figure", "Model", "At", "A", "B", "Change [95 %]", "Limit", "")
NUMERIC = (False, False, False, True, True, True, True, False)


def diff_tables(diff: Diff) -> list[Table]:
    """One table a group of figures; groups without any are left out."""
    found = []
    for group in GROUPS:
        rows = tuple(_cells(change) for change in diff.changes if change.group == group)
        if rows:
            found.append(Table(group.capitalize(), HEADINGS, ("",) * len(HEADINGS), NUMERIC, rows))
    return found


def summary(diff: Diff) -> str:
    """The last line: what is past a limit."""
    found = diff.regressions
    if not found:
        return "no regression past a limit"
    named = "; ".join(", ".join(filter(None, (c.figure, c.model, c.at))) for c in found)
    return f"{len(found)} regression{'s' if len(found) > 1 else ''} past a limit: {named}"


def verdict(change: Change) -> str:
    """What the intervals and the limit say of it."""
    side = {True: "worse", False: "better", None: "changed"}[change.worse]
    if change.regression:
        certain = {True: ", beyond the intervals", False: ", within the intervals", None: ""}[change.beyond]
        return f"REGRESSION{certain}" if math.isfinite(change.b) else "REGRESSION, missing in B"
    if change.change == (1 if change.ratio else 0):
        return "same"
    return {True: f"{side}, beyond the intervals", False: "within the intervals", None: side}[change.beyond]


def _cells(change: Change) -> tuple[str, ...]:
    say = (lambda v: count(int(v))) if "bytes" in change.figure else significant
    values = [say(v) if math.isfinite(v) else MISSING for v in (change.a, change.b)]
    limit = MISSING if change.limit is None else f"≤ {_change(change.limit, change.ratio)}"
    moved = _change(change.change, change.ratio)
    if math.isfinite(change.low + change.high):
        moved += f" [{_change(change.low, change.ratio)}, {_change(change.high, change.ratio)}]"
    return (change.figure, change.model, change.at, *values, moved, limit, verdict(change))


def _change(value: float, ratio: bool) -> str:
    if not math.isfinite(value):
        return MISSING
    return f"{value:.3f}×" if ratio else f"{value:+.4f}"
