"""What guidance does, as tables: responses to it, distances of the same noise, and the classifier's confidence."""

from __future__ import annotations

import itertools
import math
import statistics

from dashdeploy.bench.record.parts import QualityRow
from dashdeploy.bench.record.record import Record
from dashdeploy.bench.record.response import ResponseRow
from dashdeploy.bench.report.columns import Column, build
from dashdeploy.report.cells import MISSING, fixed, percent
from dashdeploy.report.table import Table, plain

TINY_FALL = 0.005
"""Of a mean confidence: less than this is no fall."""

TO_TEACHER: tuple[Column[QualityRow], ...] = (
    Column(
        "Pixels to teacher",
        lambda r, q: MISSING if q.pixel_distance is None else fixed(q.pixel_distance),
        "root mean square difference to the teacher's image of the same noise, pixel by pixel, which span 2; 0 is best",
        optional=True,
    ),
    Column(
        "Features to teacher",
        lambda r, q: MISSING if q.feature_distance is None else fixed(q.feature_distance),
        "the same in features, as a share of the teacher's; 0 is best",
        full=True,
        optional=True,
    ),
)


def response_row(record: Record) -> ResponseRow | None:
    """What the guidance of the deployed student is judged by, if it has one branch: its response at the recipe's w.

    Where that is none of the scales with a response (it changes over t, or is 1), the one nearest to its mean takes its
    place; `at_other_scale` names it.
    """
    mean = statistics.fmean(record.plan_of(record.deployed).weights)
    found = [row for row in record.targeted if row.model == record.deployed]
    return min(found, key=lambda row: abs(row.w - mean), default=None)


def at_other_scale(record: Record, row: ResponseRow) -> str:
    """` at w=2`, where that is not the guidance of the recipe; else ''."""
    at = f"w={row.w:g}"
    return "" if at == record.guidance else f" at {at}"


def _weakest(record: Record, row: ResponseRow) -> str:
    worst = record.response.weakest(row.model, row.w) if record.response else None
    return MISSING if worst is None else f"{fixed(worst.decides.energy_cosine)} at t {worst.t}"


RESPONSE: tuple[Column[ResponseRow], ...] = (
    Column("Guidance", lambda r, row: f"w={row.w:g}", numeric=False),
    Column("Model", lambda r, row: r.label(row.model), numeric=False),
    Column(
        "Cosine",
        lambda r, row: fixed(row.decides.energy_cosine),
        "whether guidance changes its prediction as it changes the teacher's; 1 is best",
    ),
    Column("Least cosine", _weakest, "at the timestep where it is least"),
    Column("ρ", lambda r, row: fixed(row.decides.rho), "strength of that change over the teacher's; 1 is best"),
    Column("Relative error", lambda r, row: fixed(row.decides.relative_error), "of that change; 0 is best"),
    Column(
        "Slope",
        lambda r, row: fixed(row.decides.slope),
        "share of the teacher's change that it reproduces in that direction; 1 is best",
        full=True,
    ),
)
BESIDE_GAP: tuple[Column[ResponseRow], ...] = tuple(
    Column(
        heading,
        lambda r, row, name=name: MISSING if row.to_target is None else fixed(getattr(row.to_gap, name)),  # type: ignore[misc]
        meaning,
        full=True,
        optional=True,
    )
    for name, heading, meaning in (
        (
            "energy_cosine",
            "Gap cosine",
            "beside the teacher's gap at the same noisy image",
        ),
        ("rho", "Gap ρ", ""),
        ("relative_error", "Gap rel. error", ""),
    )
)
BY_T: tuple[Column[ResponseRow], ...] = (
    RESPONSE[0],
    Column("t", lambda r, row: str(row.t)),
    *(column for column in RESPONSE[2:] if column.heading != "Least cosine"),
    *BESIDE_GAP,
)


def response_table(record: Record, *, full: bool = False) -> Table:
    """A row for each w and model, over all timesteps of the sampler; none in a record without responses."""
    found = record.response
    if found is None:
        return plain("Response to guidance", (), ())
    rows = sorted((row for row in found.rows if row.t is None), key=lambda row: row.w)
    beside = "the teacher's gap, times w − 1"
    if any(row.to_target for row in rows):
        beside = "the teacher's in the same step" if found.path_steps else "the teacher's"
    title = f"Response to guidance, f(w) − f({found.base:g}), beside {beside}"
    return build(record, title, (*RESPONSE, *BESIDE_GAP), rows, full=full)


def response_by_timestep(record: Record, model: str) -> Table:
    """The rows of one model at every timestep."""
    rows = [row for row in record.response.rows if row.model == model and row.t is not None] if record.response else []
    return build(record, f"{record.label(model)}, response by timestep", BY_T, rows, full=True)


def confidence_table(record: Record) -> Table:
    """A row for each model: the classifier's confidence by w, and whether it grows; none without confidences."""
    found: dict[str, dict[float, float]] = {}
    for row in record.quality.rows:
        if row.w is not None and math.isfinite(row.confidence):
            found.setdefault(row.model, {})[row.w] = row.confidence
    scales = sorted({w for of_model in found.values() for w in of_model})
    rows = []
    for model, by_scale in found.items():
        values = [by_scale[w] for w in scales if w in by_scale]
        falls = [a - b for a, b in itertools.pairwise(values)]
        grows = MISSING if not falls else "no" if max(falls) > TINY_FALL else "yes"
        gained = fixed(100 * (values[-1] - values[0]), 1) if falls else MISSING
        rows.append((record.label(model), *(percent(by_scale.get(w, math.nan)) for w in scales), gained, grows))
    title = "Confidence: mean probability (%) that the classifier gives the class that was asked for"
    headings = ("Model", *(f"w={w:g}" for w in scales), "Gain (points)", "Grows with w")
    return plain(title, headings, rows if len(scales) > 1 else (), text_columns=(0, len(headings) - 1))
