"""The record as plots: each function returns one panel as a deterministic SVG string.

Colours and text are CSS variables with a fallback, so that a panel stands alone and also follows a page's theme.
"""

from __future__ import annotations

import html
import io
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from dashdeploy.bench.record.parts import Gap, QualityRow, Scope
from dashdeploy.bench.record.record import Record

GapMetric = Literal["energy_cosine", "rho", "relative_error", "guided_error"]
GAP_METRICS: dict[GapMetric, tuple[str, float]] = {
    "energy_cosine": ("Cosine of the guidance gap", 1.0),
    "rho": ("ρ: size of the gap, student / teacher", 1.0),
    "relative_error": ("Relative error of the gap", 0.0),
    "guided_error": ("Relative error of the guided prediction", 0.0),
}
"""Metric: (axis label, its best value)."""

SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
"""Okabe and Ito's colour-blind-safe palette, by the model's place in the record."""
TERMS = ("#aa4499", "#44aa99", "#999933", "#88ccee")
"""Paul Tol's muted palette: loss terms are not models."""
MARKERS = "osD^vP"
INK, GRID = "#1f2328", "#c9ced6"
LEGEND_CHARACTERS = 52
"""Two labels of up to so many together stand side by side."""
LEGEND_LINE = 13
"""Height of a line of the legend, in points."""
LEGEND_LINES = 3
"""A panel grows by what its legend has more than these lines."""
COINCIDES = 0.005
"""Series that nowhere differ by more than this share are said to coincide."""
WIDE_RANGE = 15.0
"""From this ratio of largest to smallest on, an axis is logarithmic."""

_VARIABLES = {color: f"--series-{i}" for i, color in enumerate(SERIES)}
_VARIABLES |= {color: f"--term-{i}" for i, color in enumerate(TERMS)}
_VARIABLES |= {INK: "--ink", GRID: "--grid"}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": GRID,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "lines.linewidth": 1.7,
    "lines.markersize": 4.5,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "text.parse_math": False,
}


@dataclass(frozen=True)
class Style:
    color: str
    marker: str


def model_style(record: Record, model: str) -> Style:
    """A model's colour and marker: the same in every plot."""
    place = list(record.models).index(model)
    return Style(SERIES[place % len(SERIES)], MARKERS[place // len(SERIES) % len(MARKERS)])


def fid_by_guidance(record: Record) -> str:
    """FID against w with its interval, a line a model; guidance that changes over time stands apart."""
    return _by_guidance(record, "fid", "fid-by-guidance", "FID (lower is better)")


def fid_to_teacher(record: Record) -> str:
    """FID to the teacher's own samples against w."""
    return _by_guidance(record, "fid_to_teacher", "fid-to-teacher", "FID to the teacher's images (lower is better)")


def _by_guidance(record: Record, field: str, name: str, label: str) -> str:
    rows = [row for row in record.quality.rows if getattr(row, field) is not None]
    scales = sorted({row.w for row in rows if row.w is not None})
    spread = (scales[-1] - scales[0] if len(scales) > 1 else 1.0) or 1.0
    start = scales[-1] if scales else 0.0
    apart = list(dict.fromkeys(row.guidance for row in rows if row.w is None))
    places = {guidance: start + spread * (0.2 + 0.3 * i) for i, guidance in enumerate(apart)}
    models = [key for key in record.models if any(row.model == key for row in rows)]
    with panel(name, label) as (ax, finish):
        drawn: list[tuple[list[float], list[float]]] = []
        for i, model in enumerate(models):
            own = sorted((r for r in rows if r.model == model and r.w is not None), key=lambda r: r.w or 0.0)
            alone = [row for row in rows if row.model == model and row.w is None]
            nudge = spread * 0.014 * (i - (len(models) - 1) / 2)
            style = model_style(record, model)
            x, y = [row.w or 0.0 for row in own], [getattr(row, field).value for row in own]
            same = _coincides(x, y, drawn)
            drawn.append((x, y))
            front = 3 + i + 10 * (len(own) == 1)  # a lone point would vanish under the lines
            shared: dict[str, Any] = {"color": style.color, "capsize": 2.0, "elinewidth": 1.0, "zorder": front}
            text = record.label(model) + (", same line" if same else "")
            ax.errorbar(
                [value + nudge for value in x],
                y,
                yerr=_bars(own, field),
                marker=style.marker,
                markerfacecolor="none" if same else style.color,
                linestyle=(0, (2, 2)) if same else "-",
                label=text,
                **shared,
            )
            ax.errorbar(
                [places[row.guidance] + 2 * nudge for row in alone],
                [getattr(row, field).value for row in alone],
                yerr=_bars(alone, field),
                marker="D",
                markerfacecolor="none",
                linestyle="none",
                **shared,
            )
        if apart and scales:
            ax.axvline(start + spread * 0.1, color=GRID, linewidth=0.8)
        ticks = [w for i, w in enumerate(scales) if i in (0, len(scales) - 1) or w == round(w)]
        ax.set_xticks([*ticks, *places.values()], [*(f"{w:g}" for w in ticks), *places])
        ax.grid(False, axis="x")
        ax.set_xlabel("guidance scale w (1 = off)")
        if scale_y(ax, [getattr(row, field).value for row in rows]) == "log":
            ax.set_ylabel("log scale")
        return finish()


def gap_by_timestep(record: Record, metric: GapMetric) -> str:
    """One figure of guidance fidelity in each bin of t, a line a student; dotted: the best value."""
    label, best = GAP_METRICS[metric]
    with panel(f"gap-{metric}".replace("_", "-"), label) as (ax, finish):
        ax.axhline(best, color=INK, linewidth=1.0, linestyle=":", zorder=2)
        drawn: list[tuple[list[float], list[float]]] = []
        for i, row in enumerate(record.fidelity.rows):
            x = [(gap.t_low + gap.t_high) / 2 for gap in row.bins]
            y = [_finite(gap, metric) for gap in row.bins]
            style = model_style(record, row.model)
            same = _coincides(x, y, drawn)
            drawn.append((x, y))
            text = record.label(row.model) + (", same line" if same else "")
            ax.plot(
                x,
                y,
                color=style.color,
                marker=style.marker,
                markerfacecolor="none" if same else style.color,
                linestyle=(0, (2, 2)) if same else "-",
                label=text,
                zorder=3 + i,
            )
        ax.set_xlim(0, max((gap.t_high for row in record.fidelity.rows for gap in row.bins), default=1))
        ax.set_xlabel("timestep t (0: almost clean, right: pure noise)")
        ax.margins(y=0.12)
        if best == 0:
            ax.set_ylim(bottom=0)
        return finish()


def latency_by_batch(record: Record, scope: Scope) -> str:
    """Median time against batch, both axes logarithmic; two passes are dashed and hollow."""
    what = "one guided step" if scope == "step" else f"the whole sampler, {record.num_inference_steps} steps"
    rows = [row for row in record.latency if row.scope == scope]
    with panel(f"latency-{scope}", f"Median time (ms), {what}") as (ax, finish):
        for model in record.models:
            for branches in ("batched", "two-pass"):
                own = [row for row in rows if (row.model, row.branches) == (model, branches)]
                own.sort(key=lambda row: row.batch_size)
                if not own:
                    continue
                style, twice = model_style(record, model), branches == "two-pass"
                ax.plot(
                    [row.batch_size for row in own],
                    [row.p50_ms for row in own],
                    color=style.color,
                    marker=style.marker,
                    markerfacecolor="none" if twice else style.color,
                    linestyle="--" if twice else "-",
                    linewidth=1.0 if twice else 1.7,
                    label=None if twice else record.label(model),
                )
        handles = ax.get_legend_handles_labels()[0]
        if any(row.branches == "two-pass" for row in rows):
            handles.append(Line2D([], [], color=INK, linestyle="--", linewidth=1.0, label="two passes"))
        sizes = sorted({row.batch_size for row in rows})
        ax.set_xscale("log")
        ax.set_xticks(sizes, [str(size) for size in sizes])
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.grid(False, axis="x", which="both")
        ax.set_xlabel("batch (images)")
        _log_y(ax)
        return finish(handles)


def loss_terms(record: Record) -> str:
    """The student's loss and its terms, unscaled, against the optimizer step."""
    points = record.training
    names = list(dict.fromkeys(name for point in points for name in point.terms))
    steps = [point.step for point in points]
    with panel("loss-terms", "Loss and its terms") as (ax, finish):
        series = [("loss", [point.loss for point in points], INK)]
        series += [(n, [p.value(n) for p in points], TERMS[i % len(TERMS)]) for i, n in enumerate(names)]
        for name, values, color in series:
            ax.plot(steps, values, color=color, linewidth=1.2, label=name, zorder=4 if name == "loss" else 3)
        if all(value > 0 for _, values, _ in series for value in values if math.isfinite(value)):
            _log_y(ax)
        ax.set_xlabel("optimizer step")
        return finish()


class _Finish:
    """Lays a panel out and turns it into SVG text."""

    def __init__(self, figure: Figure, ax: Axes, name: str, title: str) -> None:
        self.figure, self.ax, self.name, self.title = figure, ax, name, title

    def __call__(self, handles: Sequence[Any] | None = None) -> str:
        shown = list(handles if handles is not None else self.ax.get_legend_handles_labels()[0])
        longest = sorted((len(str(handle.get_label())) for handle in shown), reverse=True)
        columns = 2 if sum(longest[:2]) <= LEGEND_CHARACTERS else 1
        lines = math.ceil(len(shown) / columns)
        self.ax.set_title(self.title, loc="left", fontsize=10.5, pad=9 + LEGEND_LINE * lines)
        more = max(0, lines - LEGEND_LINES)
        self.figure.set_figheight(self.figure.get_figheight() + more * LEGEND_LINE / 72)
        if shown:
            legend = self.ax.legend(
                handles=shown,
                loc="lower left",
                bbox_to_anchor=(-0.01, 1.0),
                ncols=columns,
                borderaxespad=0.2,
                handlelength=2.6,
                columnspacing=1.4,
                labelspacing=0.25,
            )
            # The title's padding keeps its place; a long name must not squeeze the axes.
            legend.set_in_layout(False)
        buffer = io.StringIO()
        no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        self.figure.savefig(buffer, format="svg", transparent=True, metadata=no_metadata)
        return _inline(buffer.getvalue(), self.name, self.title)


@contextmanager
def panel(name: str, title: str) -> Iterator[tuple[Axes, _Finish]]:
    """Axes in the house style, and what turns them into SVG text; `name` makes the text deterministic."""
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(5.2, 3.7), layout="constrained")
        FigureCanvasSVG(figure)
        ax = figure.add_subplot()
        yield ax, _Finish(figure, ax, name, title)


def on_white(svg: str) -> str:
    """A panel as a file of its own: on white, whatever the page that shows it has."""
    return svg.replace("<svg", '<svg style="background: #ffffff"', 1)


def _inline(svg: str, name: str, title: str) -> str:
    """Without prologue; ids made unique to this plot; colours as CSS variables with themselves as fallback."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(href="|url\()#', rf"\1#{name}-", svg)
    for color, variable in _VARIABLES.items():
        svg = svg.replace(color, f"var({variable}, {color})")
    return svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(title)}"', 1)


def _bars(rows: Sequence[QualityRow], field: str) -> np.ndarray:
    """(2, n) lengths of the bars; NaN, which draws nothing, where there is no interval."""
    found = [getattr(row, field) for row in rows]
    return np.array([[max(0.0, i.value - i.low) for i in found], [max(0.0, i.high - i.value) for i in found]])


def _finite(gap: Gap, metric: GapMetric) -> float:
    value = float(getattr(gap, metric))
    return value if math.isfinite(value) else math.nan


def _coincides(x: list[float], y: list[float], drawn: list[tuple[list[float], list[float]]]) -> bool:
    return any(x and x == ox and np.allclose(y, oy, rtol=COINCIDES, atol=0, equal_nan=True) for ox, oy in drawn)


def scale_y(ax: Axes, values: Sequence[float]) -> Literal["log", "linear"]:
    """Logarithmic over a wide range of positive values, else linear from zero."""
    known = [value for value in values if math.isfinite(value)]
    if known and min(known) > 0 and max(known) / min(known) > WIDE_RANGE:
        _log_y(ax)
        return "log"
    ax.set_ylim(bottom=0)
    return "linear"


def _log_y(ax: Axes) -> None:
    ax.set_yscale("log")
    low, high = ax.get_ylim()
    ax.yaxis.set_major_locator(LogLocator(subs=(1.0,) if high / low > 300 else (1.0, 2.0, 5.0)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())
