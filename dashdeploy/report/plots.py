"""The house style of plots: one panel as a deterministic SVG string, its palettes, its axes, its legend.

Colours and text are CSS variables with a fallback, so that a panel can be a file and also follows a page's theme.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal
from xml.sax.saxutils import quoteattr

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
"""Okabe and Ito's colour-blind-safe palette, for models and variants."""
TERMS = ("#aa4499", "#44aa99", "#999933", "#88ccee")
"""Paul Tol's muted palette: loss terms are not models."""
MARKERS = "osD^vP"
INK, GRID = "#1f2328", "#c9ced6"
LEGEND_CHARACTERS = 52
"""Two labels stand side by side if they have at most this many characters together."""
LEGEND_LINE = 13
"""Height of a line of the legend, in points."""
LEGEND_LINES = 3
"""A panel grows by each line of its legend after these."""
WIDE_RANGE = 15.0
"""From this ratio of largest to smallest value on, an axis is logarithmic."""

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

Finish = Callable[..., str]
"""Lays a panel out and returns its SVG text; `finish(handles)` takes the legend's entries, else it has every line."""


@contextmanager
def panel(name: str, title: str) -> Iterator[tuple[Axes, Finish]]:
    """Axes in the house style, and the function that turns them into SVG text.

    name: unique on a page; it begins every id of the SVG, and makes the text deterministic.
    """
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(5.2, 3.7), layout="constrained")
        FigureCanvasSVG(figure)
        ax = figure.add_subplot()

        def finish(handles: Sequence[Artist] | None = None) -> str:
            shown = list(handles if handles is not None else ax.get_legend_handles_labels()[0])
            _lay_out(figure, ax, title, shown)
            buffer = io.StringIO()
            no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
            figure.savefig(buffer, format="svg", transparent=True, metadata=no_metadata)
            return _inline(buffer.getvalue(), name, title)

        yield ax, finish


def on_white(svg: str) -> str:
    """A panel as a separate file: on white, whatever the background of the page that shows it."""
    return svg.replace("<svg", '<svg style="background: #ffffff"', 1)


def scale_y(ax: Axes, values: Sequence[float]) -> Literal["log", "linear"]:
    """Logarithmic over a wide range of positive values, else linear from zero."""
    known = [value for value in values if math.isfinite(value)]
    if known and min(known) > 0 and max(known) / min(known) > WIDE_RANGE:
        log_y(ax)
        return "log"
    ax.set_ylim(bottom=0)
    return "linear"


def log_y(ax: Axes) -> None:
    """A logarithmic axis with plain numbers."""
    ax.set_yscale("log")
    _plain_numbers(ax.yaxis, ax.get_ylim())


def log_x(ax: Axes) -> None:
    """A logarithmic axis of x with plain numbers, as many as have room."""
    ax.set_xscale("log")
    _plain_numbers(ax.xaxis, ax.get_xlim())


def _plain_numbers(axis: Axis, limits: tuple[float, float]) -> None:
    low, high = limits
    axis.set_major_locator(LogLocator(subs=(1.0,) if high / low > 300 else (1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _lay_out(figure: Figure, ax: Axes, title: str, handles: list[Artist]) -> None:
    """Title over legend over axes, in a figure that is high enough for the legend."""
    longest = sorted((len(str(handle.get_label())) for handle in handles), reverse=True)
    columns = 2 if sum(longest[:2]) <= LEGEND_CHARACTERS else 1
    lines = math.ceil(len(handles) / columns)
    ax.set_title(title, loc="left", fontsize=10.5, pad=9 + LEGEND_LINE * lines)
    more = max(0, lines - LEGEND_LINES)
    figure.set_figheight(figure.get_figheight() + more * LEGEND_LINE / 72)
    if handles:
        legend = ax.legend(
            handles=handles,
            loc="lower left",
            bbox_to_anchor=(-0.01, 1.0),
            ncols=columns,
            borderaxespad=0.2,
            handlelength=2.6,
            columnspacing=1.4,
            labelspacing=0.25,
        )
        # The title's padding keeps the legend's place; a long name must not squeeze the axes.
        legend.set_in_layout(False)


def _inline(svg: str, name: str, title: str) -> str:
    """Without prologue; ids made unique to this plot; colours as CSS variables with themselves as fallback."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(href="|url\()#', rf"\1#{name}-", svg)
    for color, variable in _VARIABLES.items():
        svg = svg.replace(color, f"var({variable}, {color})")
    return svg.replace("<svg", '<svg role="img" aria-label=' + quoteattr(title), 1)
