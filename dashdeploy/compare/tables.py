"""A comparison as tables."""

from __future__ import annotations

from collections.abc import Mapping

from dashdeploy.compare.summary import Row, Spread, Summary
from dashdeploy.report.cells import MISSING, percent, significant
from dashdeploy.report.table import Table, plain, to_markdown

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
        teacher = [labels.get(row.teacher or "", MISSING)] if several else []
        rows.append((row.label, *(cell(row.fid.get(scale)) for scale in scales), *map(cell, gaps), *teacher))
    title = f"Mean [smallest, largest] of {len(summary.seeds)} seeds" if len(summary.seeds) > 1 else "One seed"
    return _table(f"{title}; each gap is against the student's teacher" if several else title, headings, rows)


def other_quality(summary: Summary) -> Table:
    """A row for each variant: KID and the classifier's accuracy by guidance."""
    scales = list(dict.fromkeys(scale for row in summary.rows for scale in row.kid))
    headings = ["", *(f"KID, {scale}" for scale in scales), *(f"Accuracy, {scale} (%)" for scale in scales)]
    rows = []
    for row in summary.rows:
        accuracies = [cell(_percent(row.accuracy.get(s))) for s in scales]
        rows.append((row.label, *(cell(row.kid.get(s)) for s in scales), *accuracies))
    return _table("KID, and the share of images that the classifier takes for their class", headings, rows)


def to_teacher(summary: Summary) -> Table:
    """A row for each variant: FID to its teacher's images by guidance."""
    scales = list(dict.fromkeys(scale for row in summary.rows for scale in row.fid_to_teacher))
    rows = [(row.label, *(cell(row.fid_to_teacher.get(s)) for s in scales)) for row in summary.students]
    return _table("FID to the teacher's images at the same guidance", ["", *scales], rows)


def closed(summary: Summary) -> Table:
    """A row for each other variant: how much of the FID distance to the teacher it closes, in percent."""
    labels = {row.name: row.label for row in summary.rows}
    (left,) = {row.name for row in summary.students} - summary.closed.keys()
    by_label = {labels[name]: shares for name, shares in summary.closed.items()}
    return _shares_by_scale(
        f"FID distance between {labels[left]} and its teacher: the part that each variant closes (%)", by_label
    )


def weights(summary: Summary) -> Table:
    """A row for each teacher and variant: how its loss is spread over t."""
    headings = ["", *(f"{10 * i}–{10 * i + 10}" for i in range(10))]
    rows = []
    for row in (row for row in summary.rows if row.weight_by_decile):
        marks = ("*" if i in row.starved else "" for i in range(10))
        rows.append((row.label, *(percent(m) + mark for m, mark in zip(row.weight_by_decile, marks, strict=True))))
    title = "Share of the weight (%) in each tenth of t (% of T, clean → noise); * starved: less than 1 %"
    return _table(title, headings, rows)


def shares(summary: Summary) -> Table:
    """Share of the gain that is lost without each term, in percent."""
    return _shares_by_scale("Share of the gain that is lost without each term (%)", summary.shares)


def _shares_by_scale(title: str, by_name: Mapping[str, Mapping[str, Spread]]) -> Table:
    scales = list(dict.fromkeys(scale for shares in by_name.values() for scale in shares))
    rows = [(name, *(cell(_percent(shares.get(s))) for s in scales)) for name, shares in by_name.items()]
    return _table(title, ["", *scales], rows)


def _percent(share: Spread | None) -> Spread | None:
    return share and Spread(100 * share.mean, 100 * share.low, 100 * share.high)


def all_of(summary: Summary) -> list[Table]:
    """Every table that the summary has figures for; timestep weights unless all are uniform."""
    shown = [quality(summary), other_quality(summary)]
    shown += [to_teacher(summary)] if any(row.fid_to_teacher for row in summary.students) else []
    shown += [shares(summary)] if summary.shares else []
    shown += [closed(summary)] if summary.closed else []
    uneven = any(abs(mass - 0.1) > UNIFORM_WITHIN for row in summary.rows for mass in row.weight_by_decile)
    return [*shown, *([weights(summary)] if uneven else [])]


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


def cell(spread: Spread | None) -> str:
    """``mean [low, high]``; of one seed, the value."""
    if spread is None:
        return MISSING
    if spread.low == spread.high:
        return significant(spread.mean)
    return f"{significant(spread.mean)} [{significant(spread.low)}, {significant(spread.high)}]"


def _table(title: str, headings: list[str], rows: list[tuple[str, ...]]) -> Table:
    text_columns = [i for i, heading in enumerate(headings) if heading in ("", "Teacher")]
    return plain(title, headings, rows, text_columns=text_columns)
