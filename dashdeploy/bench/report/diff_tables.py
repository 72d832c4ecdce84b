"""A comparison of two records as tables for the terminal."""

from __future__ import annotations

import math

from dashdeploy.bench.record.diff import GROUPS, Change, Diff
from dashdeploy.report.cells import MISSING, count, significant
from dashdeploy.report.table import Table, plain

HEADINGS = ("Figure", "Model", "At", "A", "B", "Change [95 %]", "Limit", "")


def diff_tables(diff: Diff) -> list[Table]:
    """A table for each group of figures that has any."""
    rows = {group: [_cells(change) for change in diff.changes if change.group == group] for group in GROUPS}
    return [
        plain(group.capitalize(), HEADINGS, rows[group], text_columns=(0, 1, 2, 7)) for group in GROUPS if rows[group]
    ]


def summary(diff: Diff) -> str:
    """The last line: what is past a limit."""
    past = diff.regressions
    if not past:
        return "no regression past a limit"
    names = "; ".join(", ".join(filter(None, (change.figure, change.model, change.at))) for change in past)
    return f"{len(past)} regression{'s' if len(past) > 1 else ''} past a limit: {names}"


def verdict(change: Change) -> str:
    """What the confidence interval and the limit say about a change."""
    side = {True: "worse", False: "better", None: "changed"}[change.worse]
    if change.regression:
        certain = {True: ", beyond the intervals", False: ", within the intervals", None: ""}[change.beyond]
        return f"REGRESSION{certain}" if math.isfinite(change.b) else "REGRESSION, missing in B"
    if change.change == (1 if change.ratio else 0):
        return "same"
    return {True: f"{side}, beyond the intervals", False: "within the intervals", None: side}[change.beyond]


def _cells(change: Change) -> tuple[str, ...]:
    a, b = (_value(change, value) for value in (change.a, change.b))
    limit = MISSING if change.limit is None else f"≤ {_moved(change.limit, change.ratio)}"
    moved = _moved(change.change, change.ratio)
    if math.isfinite(change.low + change.high):
        moved += f" [{_moved(change.low, change.ratio)}, {_moved(change.high, change.ratio)}]"
    return (change.figure, change.model, change.at, a, b, moved, limit, verdict(change))


def _value(change: Change, value: float) -> str:
    if not math.isfinite(value):
        return MISSING
    return count(int(value)) if "bytes" in change.figure else significant(value)


def _moved(value: float, ratio: bool) -> str:
    if not math.isfinite(value):
        return MISSING
    return f"{value:.3f}×" if ratio else f"{value:+.4f}"
