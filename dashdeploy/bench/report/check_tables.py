"""The export's checks as tables: the gate's ladder, its ranges of t, parity, the other graphs, types of layers."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dashdeploy.bench.record.record import Record
from dashdeploy.bench.report.columns import t_range
from dashdeploy.figures import Bounds, GapRow, GateFigures, Rung
from dashdeploy.report.cells import MISSING, error, fixed
from dashdeploy.report.table import Table, plain

_HEADINGS = ("Uncond. error", "Cond. error", "Gap error", "Gap cosine", "Guided error")
_MEANINGS = (
    "relative error of the prediction without a class",
    "relative error of the prediction for the class",
    "relative error of the guidance gap, the difference of the two",
    "whether the gap points where torch's does; 1 is best",
    "relative error of the guided prediction at the recipe's guidance",
)
_BIN_LIMITS = ("branch_error", "branch_error", "gap_relative_error_bin", None, "guided_error")
"""The limit of each column in one range of t."""
_ALL_LIMITS = (None, None, "gap_relative_error", "gap_cosine", None)
"""The limit of each column over all t."""


def ladder_table(title: str, gate: GateFigures) -> Table:
    """Torch float32, which is the reference, and each rung over all t; then the limits."""
    reference = ("torch fp32 (reference)", "0", "0", "0", "1", "0", MISSING)
    rungs: list[tuple[str, ...]] = []
    for rung in gate.rungs:
        rungs.append((rung.name, *_figures(rung.overall), "fail" if rung.failures else "pass"))
        if rung.bounds:
            rungs.append((f"{rung.name}, bound on other draws", *_figures(rung.bounds[0]), MISSING))
    return _gap_table(title, "Rung", [reference, *rungs, ("limit", *_limits(gate, _ALL_LIMITS), MISSING)])


def rung_table(gate: GateFigures, rung: Rung) -> Table:
    """One rung in each range of t, judged by its bounds on other draws; then the limits."""
    judged: Sequence[GapRow | Bounds] = rung.bounds[1:] or rung.bins
    rows = [
        (t_range(row.t_low, row.t_high), *_figures(row), "fail" if past_limits(gate, held) else "pass")
        for row, held in zip(rung.bins, judged, strict=True)
    ]
    return _gap_table(f"{rung.name}, by timestep", "t", [*rows, ("limit", *_limits(gate, _BIN_LIMITS), MISSING)])


def past_limits(gate: GateFigures, row: GapRow | Bounds) -> list[str]:
    """The limits that the figures of one range of t are past; NaN is past any limit."""
    values = (row.uncond_error, row.cond_error, row.relative_error, row.energy_cosine, row.guided_error)
    return [
        name
        for name, value in zip(_BIN_LIMITS, values, strict=True)
        if name is not None and not value <= gate.limits.get(name, math.inf)
    ]


def parity_table(record: Record) -> Table:
    """The worst parity of each float32 artifact; no rows where there is none."""
    rows = []
    for checks in record.checks:
        if (parity := checks.parity) is not None:
            worst, limit = parity.worst, parity.limits.get("relative_error", math.nan)
            where = (worst.branch, str(worst.batch_size), t_range(worst.t_low, worst.t_high))
            passed = "pass" if worst.relative_error <= limit else "fail"
            rows.append((record.label(checks.model), error(worst.relative_error), *where, error(limit), passed))
    headings = ("Model", "Worst relative error", "Branch", "Batch", "t", "Limit", "")
    return plain("Parity with torch fp32", headings, rows, text_columns=(0, 2, 6))


def graphs_table(record: Record) -> Table:
    """The cond, step and sampler graphs of every artifact; no rows where there are none."""
    rows = [
        (
            record.label(checks.model),
            check.graph,
            *map(_error, (check.step_error, check.image_error, check.max_difference)),
        )
        for checks in record.checks
        for check in checks.sampling
    ]
    headings = ("Model", "Graph", "Error of a step", "Error of the images", "Largest difference of a pixel")
    return plain("Other graphs against torch fp32, from the same noise", headings, rows, text_columns=(0, 1))


def decoder_table(record: Record) -> Table:
    """The decoder of every artifact that has one; no rows where none has."""
    rows = []
    for checks in record.checks:
        if (found := checks.decoder) is not None:
            figures = (error(found.relative_error), error(found.limit), error(found.max_difference))
            own = MISSING if found.psnr_to_own is None else fixed(found.psnr_to_own, 1)
            rows.append((record.label(checks.model), found.precision, *figures, own))
    headings = ("Model", "Precision", "Error of an image", "Limit", "Largest difference of a pixel", "PSNR to own (dB)")
    return plain("Decoders against torch fp32, on the student's latents", headings, rows, text_columns=(0, 1))


def layers_table(record: Record) -> Table:
    """The layers of every engine, counted by type; no rows without engines."""
    rows = []
    for checks in record.checks:
        for graph, layers in checks.layers.items():
            for name, counts in ((graph, layers.heavy), (f"{graph}, engine", layers.engine or {})):
                texts = [f"{n} {kind} {kept}" for kind, by_type in counts.items() for kept, n in by_type.items()]
                rows += [(record.label(checks.model), name, ", ".join(texts))] if texts else []
    return plain("Layers of the engines, by type", ("Model", "Graph", "Layers"), rows, text_columns=(0, 1, 2))


def _figures(row: GapRow | Bounds) -> tuple[str, ...]:
    errors = (error(row.uncond_error), error(row.cond_error), error(row.relative_error))
    return (*errors, fixed(row.energy_cosine, 4), error(row.guided_error))


def _limits(gate: GateFigures, names: tuple[str | None, ...]) -> list[str]:
    values = [gate.limits.get(name) if name else None for name in names]
    signs = ["≥" if name == "gap_cosine" else "≤" for name in names]
    return [MISSING if v is None else f"{sign} {v:g}" for sign, v in zip(signs, values, strict=True)]


def _error(value: float | None) -> str:
    return MISSING if value is None else error(value)


def _gap_table(title: str, first: str, rows: list[tuple[str, ...]]) -> Table:
    numeric = (False, *([True] * len(_HEADINGS)), False)
    return Table(title, (first, *_HEADINGS, ""), ("", *_MEANINGS, ""), numeric, tuple(rows))
