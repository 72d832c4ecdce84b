"""A comparison as plots: FID against guidance, and the gap's error against t, a line a variant."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import cycle

from matplotlib.axes import Axes

from dashdeploy.bench.report.plots import MARKERS, SERIES, panel, scale_y
from dashdeploy.compare.summary import Row, Spread, Summary

DASHES = ("-", "--", ":")


def all_of(summary: Summary) -> dict[str, str]:
    """File name -> SVG."""
    # Many teachers would hide the students; they are in the table.
    shown = summary.rows if len(summary.teachers) == 1 else summary.students
    return {"fid": fid_by_guidance(shown), "gap": gap_by_timestep(summary.students)}


def fid_by_guidance(rows: Sequence[Row]) -> str:
    """Mean over seeds with the range as a bar; guidances that are not one number are in the table alone."""
    with panel("compare-fid", "FID (lower is better)") as (ax, finish):
        for place, row in enumerate(rows):
            points = {float(s[2:]): v for s, v in row.fid.items() if re.fullmatch(r"w=[\d.]+", s)}
            _line(ax, place, row.label, list(points), list(points.values()))
        ax.set_xlabel("guidance scale w (1 = off)")
        scale_y(ax, [v.mean for row in rows for v in row.fid.values()])
        return finish()


def gap_by_timestep(rows: Sequence[Row]) -> str:
    """Relative error of the guidance gap in each range of t."""
    with panel("compare-gap", "Relative error of the gap") as (ax, finish):
        for place, row in enumerate(rows, start=1):
            middles = [sum(map(int, span.split("–"))) / 2 for span in row.gap_by_t]
            _line(ax, place, row.label, middles, list(row.gap_by_t.values()))
        ax.set_xlabel("timestep t (0 is clean)")
        scale_y(ax, [v.mean for row in rows for v in row.gap_by_t.values()])
        return finish()


def _line(ax: Axes, place: int, label: str, x: list[float], y: list[Spread]) -> None:
    """One variant; its colour, marker and dashes follow from its place."""
    bars = [[v.mean - v.low for v in y], [v.high - v.mean for v in y]]
    markers, dashes = cycle(MARKERS), cycle(DASHES)
    marker = [next(markers) for _ in range(place + 1)][-1]
    dash = [next(dashes) for _ in range(place // len(SERIES) + 1)][-1]
    ax.errorbar(
        x,
        [v.mean for v in y],
        yerr=bars,
        color=SERIES[place % len(SERIES)],
        marker=marker,
        linestyle=dash,
        capsize=2.0,
        elinewidth=0.8,
        label=label,
    )
