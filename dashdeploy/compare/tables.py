"""A comparison as tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from dashdeploy.compare.spread import Spread
from dashdeploy.compare.summary import RESPONSES, Row, Summary
from dashdeploy.report.cells import MISSING, count, percent, significant
from dashdeploy.report.table import Table, plain, to_markdown

GAP_HEADINGS = {"relative_error": "Gap error", "energy_cosine": "Cosine", "rho": "ρ"}
UNIFORM_WITHIN = 1e-3


def quality(summary: Summary) -> Table:
    """A row for each variant: FID by guidance, and the gap's fidelity.

    With its teacher where there are several, and with steps and evaluations an image where these differ.
    """
    scales = list(dict.fromkeys(scale for row in summary.rows for scale in row.fid))
    several = len(summary.teachers) > 1
    labels = {row.name: row.label for row in summary.teachers}
    counted = len({(row.steps, row.evaluations) for row in summary.rows}) > 1
    counts = ["Steps", "Evaluations an image"] if counted else []
    headings = [
        "",
        *counts,
        *(f"FID, {scale}" for scale in scales),
        *GAP_HEADINGS.values(),
        *(["Teacher"] if several else []),
    ]
    rows = []
    for row in summary.rows:
        gaps = [row.gap.get(name) for name in GAP_HEADINGS]
        teacher = [labels.get(row.teacher or "", MISSING)] if several else []
        work = [count(row.steps), count(row.evaluations)] if counted else []
        rows.append((row.label, *work, *(cell(row.fid.get(scale)) for scale in scales), *map(cell, gaps), *teacher))
    against = "; each gap is against the student's teacher" if several else ""
    return _table(f"{drawn(summary)}; FID of {summary.num_images} images{against}", headings, rows)


def drawn(summary: Summary) -> str:
    """What a mean and its range are over."""
    seeds, samplings = len(summary.seeds), summary.samplings
    if seeds * samplings == 1:
        return "One training and one sampling"
    times = f"{seeds} trainings" if seeds > 1 else "one training"
    each = f", {samplings} samplings of each" if samplings > 1 else ", one sampling of each" if seeds > 1 else ""
    return f"Mean [smallest, largest] of {times}{each}"


def other_quality(summary: Summary) -> Table:
    """A row for each variant: KID and the classifier's accuracy by guidance, as far as there are any."""
    share = "he share of images that the classifier takes for their class"
    kids, accuracies = _scales(summary, "kid"), _scales(summary, "accuracy")
    title = "KID" if kids else f"T{share}"
    return _figure_and_percent(
        summary,
        f"KID, and t{share}" if kids and accuracies else title,
        figure=("KID", "kid"),
        share=("Accuracy", "accuracy"),
    )


def _scales(summary: Summary, name: str) -> list[str]:
    return list(dict.fromkeys(scale for row in summary.rows for scale in getattr(row, name)))


def _figure_and_percent(summary: Summary, title: str, *, figure: tuple[str, str], share: tuple[str, str]) -> Table:
    """A row for each variant: two figures by guidance, each given as (heading, field); the second in percent."""
    (of_figure, first), (of_share, second) = figure, share
    figures, shares = _scales(summary, first), _scales(summary, second)
    headings = ["", *(f"{of_figure}, {scale}" for scale in figures), *(f"{of_share}, {s} (%)" for s in shares)]
    rows = [
        (
            row.label,
            *(cell(getattr(row, first).get(s)) for s in figures),
            *(cell(_percent(getattr(row, second).get(s))) for s in shares),
        )
        for row in summary.rows
    ]
    return _table(title, headings, rows)


def spreads(summary: Summary) -> Table:
    """A row for each variant: the standard deviations of FID between trainings and between samplings."""
    scales = list(dict.fromkeys(scale for row in summary.rows for scale in row.fid))

    def both(spread: Spread | None) -> str:
        figures = (spread.training, spread.sampling) if spread else (None, None)
        return " / ".join(MISSING if figure is None else f"{figure:.3f}" for figure in figures)

    rows = [(row.label, *(both(row.fid.get(scale)) for scale in scales)) for row in summary.rows]
    title = "Standard deviation of FID: between trainings / between samplings of one training"
    return _table(title, ["", *scales], rows)


def to_teacher(summary: Summary) -> Table:
    """A row for each variant: FID to its teacher's images by guidance."""
    scales = list(dict.fromkeys(scale for row in summary.rows for scale in row.fid_to_teacher))
    rows = [(row.label, *(cell(row.fid_to_teacher.get(s)) for s in scales)) for row in summary.students]
    title = f"FID to the teacher's images of the same noise and guidance, {summary.num_images} images"
    return _table(title, ["", *scales], rows)


def response(summary: Summary) -> Table:
    """A row for each variant: its response to guidance beside its teacher's, by guidance."""
    scales = list(dict.fromkeys(scale for row in summary.students for scale in row.response.get("rho", {})))
    names = {name: GAP_HEADINGS[name] for name in RESPONSES}
    headings = ["", *(f"{heading}, {scale}" for heading in names.values() for scale in scales)]
    rows = [
        (row.label, *(cell(row.response.get(name, {}).get(s)) for name in names for s in scales))
        for row in summary.students
    ]
    title = "Response to guidance, f(w) − f(1), beside the teacher's gap; of one branch, beside its target's response"
    return _table(title, headings, rows)


def same_noise(summary: Summary) -> Table:
    """A row for each variant: each image's distance to its teacher's of the same noise, and confidence, by guidance."""
    title = (
        "Root mean square distance of pixels to the teacher's image of the same noise, and the classifier's confidence"
    )
    pixels, confidence = ("Pixels", "pixel_distance"), ("Confidence", "confidence")
    return _figure_and_percent(summary, title, figure=pixels, share=confidence)


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
    shown = _distances(summary)
    shown += [other_quality(summary)] if any(row.kid or row.accuracy for row in summary.rows) else []
    shown += [same_noise(summary)] if any(row.pixel_distance or row.confidence for row in summary.rows) else []
    shown += [response(summary)] if any(row.response.get("rho") for row in summary.students) else []
    shown += [shares(summary)] if summary.shares else []
    uneven = any(abs(mass - 0.1) > UNIFORM_WITHIN for row in summary.rows for mass in row.weight_by_decile)
    shown += [weights(summary)] if uneven else []
    return [*shown, *(_confirmed(summary.confirmed) if summary.confirmed else ())]


def _distances(summary: Summary) -> list[Table]:
    """FID with its spread, and what it says of the distance to the teacher."""
    shown = [quality(summary)]
    shown += [spreads(summary)] if any(s.sampling is not None for row in summary.rows for s in row.fid.values()) else []
    shown += [to_teacher(summary)] if any(row.fid_to_teacher for row in summary.students) else []
    return [*shown, *([closed(summary)] if any(summary.closed.values()) else [])]


def _confirmed(summary: Summary) -> list[Table]:
    """The tables of the chosen variants at fresh seeds."""
    seeds = ", ".join(map(str, summary.seeds))
    title = f"The chosen variants, trained and drawn again with seeds {seeds}, which had no part in the choice"
    return [replace(table, title=f"{title}. {table.title}") for table in _distances(summary)]


def markdown(summary: Summary) -> str:
    """Every table with its title."""
    head = f"{size(summary.students)}FID of {summary.num_images} images in features of {summary.features}."
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
