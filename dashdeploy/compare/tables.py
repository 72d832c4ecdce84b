"""A comparison as tables."""

from __future__ import annotations

from dashdeploy.bench.cells import MISSING, percent, significant
from dashdeploy.bench.table import Table, to_markdown
from dashdeploy.compare.summary import Row, Spread, Summary

GAP_HEADINGS = {"relative_error": "Gap error", "energy_cosine": "Cosine", "rho": "ρ"}
UNIFORM_WITHIN = 1e-3


def quality(summary: Summary) -> Table:
    """A row for each variant: FID by guidance, and the gap's fidelity; with its teacher where there are several."""
    scales = list(dict.fromkeys(scale for row in summary.rows for scale in row.fid))
    several = len(summary.teachers) > 1
    labels = {row.name: row.label for row in summary.teachers}
    headings = ["", *(f"FID, {scale}" for scale in scales), *GAP_HEADINGS.values(), *(["Teacher"] if several else [])]
    rows = []
    for row in summary.rows:
        gaps = [row.gap.get(name) for name in GAP_HEADINGS]
        own = [labels.get(row.teacher or "", MISSING)] if several else []
        rows.append((row.label, *(cell(row.fid.get(scale)) for scale in scales), *map(cell, gaps), *own))
    title = f"Mean [smallest, largest] of {len(summary.seeds)} seeds"
    return _table(f"{title}; the gap is against each student's own teacher" if several else title, headings, rows)


def other_quality(summary: Summary) -> Table:
    """A row for each variant: KID and the classifier's accuracy by guidance."""
    scales = list(dict.fromkeys(scale for row in summary.rows for scale in row.kid))
    headings = ["", *(f"KID, {scale}" for scale in scales), *(f"Accuracy, {scale} (%)" for scale in scales)]
    rows = []
    for row in summary.rows:
        shares = (row.accuracy.get(s) for s in scales)
        shown = [p and Spread(100 * p.mean, 100 * p.low, 100 * p.high) for p in shares]
        rows.append((row.label, *(cell(row.kid.get(s)) for s in scales), *map(cell, shown)))
    return _table("KID, and the share of images that the classifier takes for what they are", headings, rows)


def weights(summary: Summary) -> Table:
    """A row for each teacher and variant: how its loss is spread over t."""
    headings = ["", *(f"{10 * i}–{10 * i + 10}" for i in range(10))]
    rows = []
    for row in (row for row in summary.rows if row.weight_by_decile):
        marks = ("*" if i in row.starved else "" for i in range(10))
        rows.append((row.label, *(percent(m) + mark for m, mark in zip(row.weight_by_decile, marks, strict=True))))
    title = "Timestep weight (%) by tenths of t (% of T, clean → noise) as trained with; * starved: less than 1 %"
    return _table(title, headings, rows)


def shares(summary: Summary) -> Table:
    """Share of the gain that is lost without each term, in percent."""
    scales = list(dict.fromkeys(scale for found in summary.shares.values() for scale in found))
    rows = []
    for term, found in summary.shares.items():
        percent = (found.get(s) for s in scales)
        rows.append((term, *(cell(p and Spread(100 * p.mean, 100 * p.low, 100 * p.high)) for p in percent)))
    return _table("Lost without the term (% of the gain)", ["", *scales], rows)


def all_of(summary: Summary) -> list[Table]:
    """Every table that the summary has figures for; timestep weights unless all are uniform."""
    found = [quality(summary), other_quality(summary), *([shares(summary)] if summary.shares else [])]
    uneven = any(abs(mass - 0.1) > UNIFORM_WITHIN for row in summary.rows for mass in row.weight_by_decile)
    return [*found, *([weights(summary)] if uneven else [])]


def markdown(summary: Summary) -> str:
    """Every table with its title."""
    head = f"{size(summary.students)}FID in features of {summary.features}."
    return "\n\n".join([head, *(f"**{t.title}**\n\n{to_markdown(t)}" for t in all_of(summary))]) + "\n"


def size(rows: list[Row]) -> str:
    """The students' size and budget, where they share it."""
    sizes = {(row.parameters, row.images_seen) for row in rows}
    if len(sizes) != 1:
        return ""
    ((parameters, images),) = sizes
    return f"Students of {parameters:,} parameters, {images:,} images seen. "


def cell(found: Spread | None) -> str:
    """mean [low, high]; of one seed the value alone."""
    if found is None:
        return MISSING
    if found.low == found.high:
        return significant(found.mean)
    return f"{significant(found.mean)} [{significant(found.low)}, {significant(found.high)}]"


def _table(title: str, headings: list[str], rows: list[tuple[str, ...]]) -> Table:
    numeric = tuple(heading not in ("", "Teacher") for heading in headings)
    return Table(title, tuple(headings), ("",) * len(headings), numeric, tuple(rows))
