"""A comparison as plots: FID against guidance, and the gap's error against t, a line for each variant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes

from dashdeploy.compare.spread import Spread
from dashdeploy.compare.summary import Row, Summary
from dashdeploy.report.plots import MARKERS, SERIES, panel, scale_y

DASHES = ("-", "--", ":")


def all_of(summary: Summary) -> dict[str, str]:
    """File name -> SVG."""
    # Many teachers would hide the students; the table has them.
    shown = summary.rows if len(summary.teachers) == 1 else summary.students
    return {"fid": fid_by_guidance(shown, summary.scales), "gap": gap_by_timestep(summary.students)}


def fid_by_guidance(rows: Sequence[Row], scales: Mapping[str, float | None]) -> str:
    """Mean over seeds with the range as a bar; guidance that changes over t is in the table only.

    scales: w by the guidance's label; None: it changes over t.
    """
    with panel("compare-fid", "FID (lower is better)") as (ax, finish):
        for place, row in enumerate(rows):
            points = {w: spread for label, spread in row.fid.items() if (w := scales[label]) is not None}
            _line(ax, place, row.label, list(points), list(points.values()))
        ax.set_xlabel("guidance scale w (1 = off)")
        scale_y(ax, [spread.mean for row in rows for spread in row.fid.values()])
        return finish()


def gap_by_timestep(rows: Sequence[Row]) -> str:
    """Relative error of the guidance gap in each range of t."""
    with panel("compare-gap", "Relative error of the gap") as (ax, finish):
        for place, row in enumerate(rows, start=1):
            middles = [(one.t_low + one.t_high - 1) / 2 for one in row.gap_by_t]
            _line(ax, place, row.label, middles, [one.relative_error for one in row.gap_by_t])
        ax.set_xlabel("timestep t (0 is clean)")
        scale_y(ax, [one.relative_error.mean for row in rows for one in row.gap_by_t])
        return finish()


def _line(ax: Axes, place: int, label: str, x: list[float], y: list[Spread]) -> None:
    """One variant; its place gives its colour, marker and dashes."""
    bars = [[v.mean - v.low for v in y], [v.high - v.mean for v in y]]
    ax.errorbar(
        x,
        [v.mean for v in y],
        yerr=bars,
        color=SERIES[place % len(SERIES)],
        marker=MARKERS[place % len(MARKERS)],
        linestyle=DASHES[place // len(SERIES) % len(DASHES)],
        capsize=2.0,
        elinewidth=0.8,
        label=label,
    )
