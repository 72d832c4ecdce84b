"""The record as plots: each function returns one panel as a deterministic SVG string."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter

from dashdeploy.bench.record.parts import QualityRow
from dashdeploy.bench.record.record import RECIPE_PLAN, Record
from dashdeploy.bench.record.times import Scope
from dashdeploy.figures import GapRow
from dashdeploy.report.plots import GRID, INK, MARKERS, SERIES, TERMS, log_y, panel, scale_y

GapMetric = Literal["energy_cosine", "rho", "relative_error", "guided_error"]
GAP_METRICS: dict[GapMetric, tuple[str, float]] = {
    "energy_cosine": ("Cosine of the guidance gap", 1.0),
    "rho": ("ρ: size of the gap, student / teacher", 1.0),
    "relative_error": ("Relative error of the gap", 0.0),
    "guided_error": ("Relative error of the guided prediction", 0.0),
}
"""Metric: (axis label, its best value)."""
COINCIDES = 0.005
"""Two lines that differ by at most this share everywhere are said to coincide."""

Line = tuple[list[float], list[float]]
"""x and y of what was drawn."""


@dataclass(frozen=True)
class Style:
    """How a model is drawn."""

    color: str
    marker: str


def model_style(record: Record, model: str) -> Style:
    """A model's colour and marker: the same in every plot."""
    place = list(record.models).index(model)
    return Style(SERIES[place % len(SERIES)], MARKERS[place // len(SERIES) % len(MARKERS)])


def fid_by_guidance(record: Record) -> str:
    """FID against w with its confidence interval, a line for each model; guidance that changes over t stands apart."""
    return _by_guidance(record, "fid", "fid-by-guidance", "FID (lower is better)")


def fid_to_teacher(record: Record) -> str:
    """FID to the teacher's images against w."""
    return _by_guidance(record, "fid_to_teacher", "fid-to-teacher", "FID to the teacher's images (lower is better)")


def _by_guidance(record: Record, field: str, name: str, label: str) -> str:
    rows = [row for row in record.quality.rows if getattr(row, field) is not None]
    scales = sorted({row.w for row in rows if row.w is not None})
    spread = (scales[-1] - scales[0] if len(scales) > 1 else 1.0) or 1.0
    last = scales[-1] if scales else 0.0
    changing = list(dict.fromkeys(row.guidance for row in rows if row.w is None))
    places = {guidance: last + spread * (0.2 + 0.3 * i) for i, guidance in enumerate(changing)}
    models = [key for key in record.models if any(row.model == key for row in rows)]
    with panel(name, label) as (ax, finish):
        drawn: list[Line] = []
        for i, model in enumerate(models):
            constant_rows = sorted((r for r in rows if r.model == model and r.w is not None), key=lambda r: r.w or 0.0)
            changing_rows = [row for row in rows if row.model == model and row.w is None]
            nudge = spread * 0.014 * (i - (len(models) - 1) / 2)
            x, y = [row.w or 0.0 for row in constant_rows], [getattr(row, field).value for row in constant_rows]
            same = _coincides((x, y), drawn)
            drawn.append((x, y))
            color = model_style(record, model).color
            front = 3 + i + 10 * (len(x) == 1)  # a single point would vanish under the lines
            shared: dict[str, Any] = {"color": color, "capsize": 2.0, "elinewidth": 1.0, "zorder": front}
            ax.errorbar(
                [value + nudge for value in x],
                y,
                yerr=_bars(constant_rows, field),
                marker=model_style(record, model).marker,
                markerfacecolor="none" if same else color,
                linestyle=(0, (2, 2)) if same else "-",
                label=record.label(model) + (", same line" if same else ""),
                **shared,
            )
            ax.errorbar(
                [places[row.guidance] + 2 * nudge for row in changing_rows],
                [getattr(row, field).value for row in changing_rows],
                yerr=_bars(changing_rows, field),
                marker="D",
                markerfacecolor="none",
                linestyle="none",
                **shared,
            )
        if changing and scales:
            ax.axvline(last + spread * 0.1, color=GRID, linewidth=0.8)
        ticks = [w for i, w in enumerate(scales) if i in (0, len(scales) - 1) or w == round(w)]
        ax.set_xticks([*ticks, *places.values()], [*(f"{w:g}" for w in ticks), *places])
        ax.grid(False, axis="x")
        ax.set_xlabel("guidance scale w (1 = off)")
        if scale_y(ax, [getattr(row, field).value for row in rows]) == "log":
            ax.set_ylabel("log scale")
        return finish()


def gap_by_timestep(record: Record, metric: GapMetric) -> str:
    """One figure of guidance fidelity in each range of t, a line for each student; dotted: the best value."""
    label, best = GAP_METRICS[metric]
    with panel(f"gap-{metric}".replace("_", "-"), label) as (ax, finish):
        ax.axhline(best, color=INK, linewidth=1.0, linestyle=":", zorder=2)
        drawn: list[Line] = []
        for i, row in enumerate(record.fidelity.rows):
            x = [(gap.t_low + gap.t_high) / 2 for gap in row.bins]
            y = [_finite(gap, metric) for gap in row.bins]
            style = model_style(record, row.model)
            same = _coincides((x, y), drawn)
            drawn.append((x, y))
            ax.plot(
                x,
                y,
                color=style.color,
                marker=style.marker,
                markerfacecolor="none" if same else style.color,
                linestyle=(0, (2, 2)) if same else "-",
                label=record.label(row.model) + (", same line" if same else ""),
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
    rows = [row for row in record.latency if row.scope == scope and row.plan in (None, RECIPE_PLAN)]
    with panel(f"latency-{scope}", f"Median time (ms), {what}") as (ax, finish):
        for model in record.models:
            for branches in ("batched", "two-pass"):
                timed = [row for row in rows if (row.model, row.branches) == (model, branches)]
                timed.sort(key=lambda row: row.batch_size)
                if not timed:
                    continue
                style, twice = model_style(record, model), branches == "two-pass"
                ax.plot(
                    [row.batch_size for row in timed],
                    [row.p50_ms for row in timed],
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
        log_y(ax)
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
            log_y(ax)
        ax.set_xlabel("optimizer step")
        return finish()


def _bars(rows: Sequence[QualityRow], field: str) -> np.ndarray:
    """(2, n) lengths of the bars; NaN, which draws nothing, where there is no confidence interval."""
    estimates = [getattr(row, field) for row in rows]
    return np.array([[max(0.0, e.value - e.low) for e in estimates], [max(0.0, e.high - e.value) for e in estimates]])


def _finite(gap: GapRow, metric: GapMetric) -> float:
    value = float(getattr(gap, metric))
    return value if math.isfinite(value) else math.nan


def _coincides(line: Line, drawn: Sequence[Line]) -> bool:
    """Whether a line lies on one that was drawn before."""
    x, y = line
    return any(x and x == other_x and _same(y, other_y) for other_x, other_y in drawn)


def _same(y: list[float], other: list[float]) -> bool:
    return np.allclose(y, other, rtol=COINCIDES, atol=0, equal_nan=True)
