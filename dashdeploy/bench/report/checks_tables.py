"""The export's checks as tables: the guidance gate's ladder, its ranges of t, parity, the other graphs, layer types."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dashdeploy.bench.record.parts import ArtifactChecks, Gap, Rung
from dashdeploy.bench.record.record import Record
from dashdeploy.bench.report.cells import MISSING, fixed
from dashdeploy.bench.report.table import Table

_HEADINGS = ("Uncond. error", "Cond. error", "Gap error", "Gap cosine", "Guided error")
_MEANINGS = (
    "relative error of the prediction without a class",
    "relative error of the prediction for the class",
    "relative error of the guidance gap, the difference of the two",
    "whether the gap points where torch's does; 1 is best",
    "relative error of the guided prediction at the recipe's guidance",
)
_BIN_LIMITS = ("branch_error", "branch_error", "gap_relative_error_bin", None, "guided_error")
_ALL_LIMITS = (None, None, "gap_relative_error", "gap_cosine", None)


def ladder_table(record: Record, checks: ArtifactChecks) -> Table:
    """Torch float32, which is the reference, and each rung over all t; then the limits."""
    exact = ("torch fp32 (reference)", "0", "0", "0", "1", "0", MISSING)
    rungs = [(rung.name, *_figures(rung.overall), "fail" if rung.failures else "pass") for rung in checks.rungs]
    return _table(
        f"{record.label(checks.model)}: the ladder, all t",
        "Rung",
        [exact, *rungs, ("limit", *_limits(checks, _ALL_LIMITS), MISSING)],
    )


def rung_table(checks: ArtifactChecks, rung: Rung) -> Table:
    """One rung in each range of t; then the limits."""
    rows = [
        (f"{g.t_low}–{g.t_high - 1}", *_figures(g), "fail" if past_limits(checks, g) else "pass") for g in rung.bins
    ]
    return _table(f"{rung.name}, by timestep", "t", [*rows, ("limit", *_limits(checks, _BIN_LIMITS), MISSING)])


def past_limits(checks: ArtifactChecks, gap: Gap) -> list[str]:
    """The limits of a range of t that its figures are past; a figure that is NaN is past any."""
    values = (gap.uncond_error, gap.cond_error, gap.relative_error, gap.energy_cosine, gap.guided_error)
    return [
        name
        for name, value in zip(_BIN_LIMITS, values, strict=True)
        if name is not None and not value <= checks.limits.get(name, math.inf)
    ]


def parity_table(record: Record) -> Table:
    """The worst parity of each artifact that is held to it; no rows without one."""
    rows = []
    for checks in record.checks:
        if (worst := checks.parity) is not None:
            limit = checks.limits.get("relative_error", math.nan)
            where = (worst.branch, str(worst.batch_size), f"{worst.t_low}–{worst.t_high - 1}")
            passed = "pass" if worst.relative_error <= limit else "fail"
            rows.append((record.label(checks.model), error(worst.relative_error), *where, error(limit), passed))
    headings = ("Model", "Worst relative error", "Branch", "Batch", "t", "Limit", "")
    return _plain("Parity with torch fp32", headings, rows, text=(0, 2, 6))


def graphs_table(record: Record) -> Table:
    """The cond, step and sampler graphs of every artifact; no rows without them."""
    rows = [
        (record.label(c.model), g.graph, error(g.step_error), error(g.image_error), error(g.max_difference))
        for c in record.checks
        for g in c.graphs
    ]
    headings = ("Model", "Graph", "Error of a step", "Error of the images", "Largest difference of a pixel")
    return _plain("Other graphs against torch fp32, from the same noise", headings, rows, text=(0, 1))


def layer_types_table(record: Record) -> Table:
    """The layers of every engine, counted by type; no rows without engines."""
    rows = [
        (record.label(checks.model), graph, ", ".join(f"{number} {kind}" for kind, number in types.items()))
        for checks in record.checks
        for graph, types in checks.layer_types.items()
    ]
    return _plain("Layers of the engines, by type", ("Model", "Graph", "Layers"), rows, text=(0, 1, 2))


def error(value: float) -> str:
    """A relative error: four decimals, or ``3.6e-06`` below 0.001; – for NaN."""
    if math.isfinite(value) and 0 < value < 1e-3:
        return f"{value:.1e}"
    return fixed(value, 4)


def _figures(gap: Gap) -> tuple[str, ...]:
    errors = (error(gap.uncond_error), error(gap.cond_error), error(gap.relative_error))
    return (*errors, fixed(gap.energy_cosine, 4), error(gap.guided_error))


def _limits(checks: ArtifactChecks, names: tuple[str | None, ...]) -> list[str]:
    values = [checks.limits.get(name) if name else None for name in names]
    signs = ["≥" if name == "gap_cosine" else "≤" for name in names]
    return [MISSING if v is None else f"{sign} {v:g}" for sign, v in zip(signs, values, strict=True)]


def _table(title: str, first: str, rows: list[tuple[str, ...]]) -> Table:
    numeric = (False, *([True] * len(_HEADINGS)), False)
    return Table(title, (first, *_HEADINGS, ""), ("", *_MEANINGS, ""), numeric, tuple(rows))


def _plain(title: str, headings: tuple[str, ...], rows: Sequence[tuple[str, ...]], *, text: tuple[int, ...]) -> Table:
    numeric = tuple(i not in text for i in range(len(headings)))
    return Table(title, headings, ("",) * len(headings), numeric, tuple(rows))
