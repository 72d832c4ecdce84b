"""The record as tables: one definition of columns for the terminal, Markdown and the report."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from rich.table import Table as RichTable
from rich.text import Text

from dashdeploy.bench.record import TEACHER, FidelityRow, Gap, Interval, LatencyRow, Pair, QualityRow, Record

MISSING = "–"
Row = TypeVar("Row")


@dataclass(frozen=True)
class Column(Generic[Row]):
    """heading carries the unit; meaning is one plain line, '' where the heading says it; full: in the report only."""

    heading: str
    cell: Callable[[Record, Row], str]
    meaning: str = ""
    numeric: bool = True
    full: bool = False


@dataclass(frozen=True)
class Table:
    """Finished text: what every renderer gets."""

    title: str
    headings: tuple[str, ...]
    meanings: tuple[str, ...]
    numeric: tuple[bool, ...]
    rows: tuple[tuple[str, ...], ...]


def significant(value: float, digits: int = 3) -> str:
    """A number to so many significant digits, never in exponent form; – for NaN."""
    return f"{value:.{_decimals(value, digits)}f}" if math.isfinite(value) else MISSING


def interval(found: Interval | None, digits: int = 3) -> str:
    """``1.23 [1.10, 1.36]``, or the value alone where no interval was computed."""
    if found is None or not math.isfinite(found.value):
        return MISSING
    if not math.isfinite(found.low + found.high):
        return significant(found.value, digits)
    decimals = _decimals(max(abs(found.value), abs(found.low), abs(found.high)), digits)
    return f"{found.value:.{decimals}f} [{found.low:.{decimals}f}, {found.high:.{decimals}f}]"


def fixed(value: float, decimals: int = 3) -> str:
    return f"{value:.{decimals}f}" if math.isfinite(value) else MISSING


def percent(value: float) -> str:
    return f"{100 * value:.1f}" if math.isfinite(value) else MISSING


def times(value: float) -> str:
    return f"{significant(value, 2 if value < 10 else 3)}×" if math.isfinite(value) else MISSING


def count(value: int | None) -> str:
    return MISSING if value is None else f"{value:,}"


def kilobytes(value: int | None) -> str:
    return MISSING if value is None else f"{value / 1000:,.0f}"


def _decimals(value: float, digits: int) -> int:
    if not math.isfinite(value) or value == 0:
        return 0
    return min(6, max(0, digits - 1 - math.floor(math.log10(abs(value)))))


MODELS: tuple[Column[str], ...] = (
    Column("Model", lambda r, key: r.label(key), numeric=False),
    Column("Runtime", lambda r, key: r.models[key].runtime, numeric=False),
    Column("Parameters", lambda r, key: count(r.models[key].parameters)),
    Column("Size (kB)", lambda r, key: kilobytes(r.models[key].file_bytes)),
    Column(
        "Peak memory (MiB)",
        lambda r, key: fixed(r.models[key].peak_rss_mib, 0),
        "the most memory its process held, runtime and Python included",
    ),
    Column("SHA-256", lambda r, key: r.models[key].sha256 or MISSING, numeric=False, full=True),
)
QUALITY: tuple[Column[QualityRow], ...] = (
    Column("Guidance", lambda r, q: q.guidance, "how strongly the class is pushed; w = 1 is off", numeric=False),
    Column("Model", lambda r, q: r.label(q.model), numeric=False),
    Column("FID [95 %]", lambda r, q: interval(q.fid), "distance of its images to real ones; 0 is best"),
    Column(
        "FID to teacher [95 %]",
        lambda r, q: interval(q.fid_to_teacher),
        "distance to the teacher's images at the same guidance: what was lost in compression; 0 is best",
    ),
    Column(
        "KID [95 %]",
        lambda r, q: interval(q.kid),
        "a second distance to real images, not biased by their number; 0 is best",
    ),
    Column("Accuracy (%)", lambda r, q: percent(q.accuracy), "share that a classifier takes for the requested class"),
)
_GAP: tuple[tuple[str, str, int, bool, str], ...] = (
    ("energy_cosine", "Cosine", 3, False, "whether its guidance points where the teacher's does; 1 is best"),
    ("rho", "ρ", 3, False, "strength of its guidance over the teacher's; 1 is best, and means little at a low cosine"),
    ("relative_error", "Relative error", 3, False, "how far its guidance is from the teacher's; 0 is best"),
    ("guided_error", "Guided error", 3, False, "how far its final, guided prediction is from the teacher's; 0 is best"),
    ("mean_cosine", "Mean cosine", 3, True, "the cosine of each draw, averaged; 1 is best"),
    ("slope", "Slope", 3, True, "share of the teacher's guidance that it reproduces in that direction; 1 is best"),
    ("mse", "MSE a pixel", 5, True, "mean square difference of the two guidances; 0 is best"),
    ("cond_error", "Cond. error", 3, True, "relative error of the prediction for the class; 0 is best"),
    ("uncond_error", "Uncond. error", 3, True, "relative error of the prediction without a class; 0 is best"),
)


def _gap_columns() -> tuple[Column[Gap], ...]:
    def cell(name: str, decimals: int) -> Callable[[Record, Gap], str]:
        return lambda _, gap: fixed(getattr(gap, name), decimals)

    return tuple(Column(heading, cell(n, d), meaning, full=full) for n, heading, d, full, meaning in _GAP)


GAP = _gap_columns()
FIDELITY: tuple[Column[FidelityRow], ...] = (
    Column("Model", lambda r, f: r.label(f.model), numeric=False),
    *(Column(c.heading, lambda r, f, c=c: c.cell(r, f.overall), c.meaning, full=c.full) for c in GAP),  # type: ignore[misc]
    Column("Draws", lambda r, f: count(f.overall.num), full=True),
)
GAP_BINS: tuple[Column[Gap], ...] = (
    Column("t", lambda r, g: f"{g.t_low}–{g.t_high - 1}", numeric=False),
    *GAP,
    Column("Draws", lambda r, g: count(g.num), full=True),
)
LATENCY: tuple[Column[LatencyRow], ...] = (
    Column(
        "What",
        lambda r, row: "step" if row.scope == "step" else f"{r.num_inference_steps} steps",
        "one guided denoising step, or the whole sampler",
        numeric=False,
    ),
    Column("Batch", lambda r, row: count(row.batch_size), "images at a time"),
    Column("Model", lambda r, row: r.label(row.model), numeric=False),
    Column(
        "Branches",
        lambda r, row: row.branches,
        "the predictions with and without the class: batched into one pass, or two passes",
        numeric=False,
    ),
    Column("p50 (ms)", lambda r, row: significant(row.p50_ms), "half of the runs took at most this"),
    Column("p90 (ms)", lambda r, row: significant(row.p90_ms), full=True),
    Column("p99 (ms)", lambda r, row: significant(row.p99_ms), "the slowest runs; only as good as their number"),
    Column("Mean (ms)", lambda r, row: significant(row.mean_ms), full=True),
    Column("Images/s", lambda r, row: significant(row.images_per_s), "at the step: images taken one step further"),
    Column(
        "Teacher ÷ this",
        lambda r, row: times(r.ratio_to_teacher(row)),
        "speed-up: the p50 of the teacher's faster way at the same batch over this p50",
    ),
    Column("Runs", lambda r, row: count(row.repeats)),
)
PAIRS: tuple[Column[Pair], ...] = (
    Column("What", lambda r, p: "step" if p.scope == "step" else f"{r.num_inference_steps} steps", numeric=False),
    Column("Batch", lambda r, p: count(p.batch_size)),
    Column("Slower", lambda r, p: r.label(p.slow), numeric=False),
    Column("Faster", lambda r, p: r.label(p.fast), numeric=False),
    Column("Ratio of medians", lambda r, p: times(p.ratio), "branches batched; drift of the machine meets both"),
)


def build(record: Record, title: str, columns: Sequence[Column[Any]], rows: Iterable[Any], *, full: bool) -> Table:
    """A table of these columns; full: with those that only the report shows."""
    shown = [column for column in columns if full or not column.full]
    return Table(
        title=title,
        headings=tuple(column.heading for column in shown),
        meanings=tuple(column.meaning for column in shown),
        numeric=tuple(column.numeric for column in shown),
        rows=tuple(tuple(column.cell(record, row) for column in shown) for row in rows),
    )


def models_table(record: Record, *, full: bool = False) -> Table:
    return build(record, "Models", MODELS, record.models, full=full)


def quality_table(record: Record, *, full: bool = False) -> Table:
    """Models of one guidance stand together."""
    order = {guidance: i for i, guidance in enumerate(dict.fromkeys(row.guidance for row in record.quality.rows))}
    rows = sorted(record.quality.rows, key=lambda row: order[row.guidance])
    return build(record, f"Quality, {record.quality.num_images} images each", QUALITY, rows, full=full)


def fidelity_table(record: Record, *, full: bool = False) -> Table:
    return build(record, f"Guidance fidelity at {record.guidance}, all t", FIDELITY, record.fidelity.rows, full=full)


def bins_table(record: Record, row: FidelityRow) -> Table:
    return build(record, f"{record.label(row.model)}, by timestep", GAP_BINS, row.bins, full=True)


def latency_table(record: Record, *, full: bool = False) -> Table:
    """Models of one scope and batch stand together."""
    rows = sorted(record.latency, key=lambda row: (row.scope != "step", row.batch_size))
    return build(record, f"Latency, {record.threads} threads", LATENCY, rows, full=full)


def pairs_table(record: Record) -> Table:
    return build(record, "Speed-up, runs taking turns", PAIRS, record.pairs, full=True)


def baselines_table(record: Record) -> Table:
    """FID and gap of this record's teacher and student above the committed controls; no rows without controls."""
    baselines = record.baselines
    scales = list(dict.fromkeys(scale for row in baselines.rows for scale in row.fid)) if baselines else []
    rows: list[tuple[str, ...]] = []
    for key in dict.fromkeys((TEACHER, record.deployed)) if baselines else ():
        found = [record.quality_at(key, scale) for scale in scales]
        gap = record.fidelity_of(key)
        own = (fixed(gap.overall.energy_cosine), fixed(gap.overall.rho)) if gap else (fixed(1.0), fixed(1.0))
        rows.append((record.label(key), *(significant(q.fid.value) if q else MISSING for q in found), *own))
    for row in baselines.rows if baselines else ():
        fids = (significant(row.fid.get(scale, math.nan)) for scale in scales)
        rows.append((row.label, *fids, fixed(row.energy_cosine), fixed(row.rho)))
    headings = ("Model", *(f"FID, {scale}" for scale in scales), "Cosine", "ρ")
    return _plain("Baselines: same size, same images seen", headings, rows)


def recovery_table(record: Record) -> Table:
    """The share of the way from scratch to the teacher, in FID; no rows without controls."""
    found = record.baselines.recovery if record.baselines else {}
    rows = [("Recovered (%)", *map(percent, found.values()))] if found else []
    return _plain("Recovery: (FID scratch − FID student) / (FID scratch − FID teacher)", ("", *found), rows)


def _plain(title: str, headings: tuple[str, ...], rows: list[tuple[str, ...]]) -> Table:
    numeric = (False, *([True] * (len(headings) - 1)))
    return Table(title, headings, ("",) * len(headings), numeric, tuple(rows))


def summary(record: Record) -> list[Table]:
    """What the terminal and the README show; tables without rows are left out."""
    tables = (models_table, quality_table, fidelity_table, latency_table, baselines_table, recovery_table)
    return [table for build_table in tables if (table := build_table(record)).rows]


def rich_tables(record: Record) -> list[RichTable]:
    """The summary for a rich console."""
    return [to_rich(table) for table in summary(record)]


def to_rich(table: Table) -> RichTable:
    """For a rich console; names are taken literally, not as markup."""
    shown = RichTable(title=Text(table.title, style="bold"), title_justify="left", box=None, pad_edge=False)
    for heading, numeric in zip(table.headings, table.numeric, strict=True):
        shown.add_column(Text(heading), justify="right" if numeric else "left", no_wrap=True)
    for row in table.rows:
        shown.add_row(*map(Text, row))
    return shown


def to_markdown(table: Table) -> str:
    """A GitHub table, without its title."""
    marks = ["--:" if numeric else ":--" for numeric in table.numeric]
    lines = [[_escape(cell) for cell in row] for row in (table.headings, *table.rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (lines[0], marks, *lines[1:]))


def markdown_results(record: Record) -> str:
    """The README's part about this record: where it was measured, the tables, the notes."""
    where = record.machine.gpu or f"{record.machine.cpu}, {record.machine.cores} cores"
    shown = [name for name in ("torch", "onnxruntime", "onnxruntime-gpu") if name in record.versions]
    versions = ", ".join(f"{name} {record.versions[name]}" for name in shown)
    features = record.quality.features
    intro = (
        f"Recipe `{record.recipe}`, seed {record.seed}, measured {record.created:%Y-%m-%d} on {where} "
        f"({record.threads} threads; {versions}). FID and KID in features of {features.name} "
        f"(SHA-256 `{features.sha256[:12]}…`), against {record.quality.num_reference} real images."
    )
    parts = [_escape(intro)]
    for table in summary(record):
        parts += [f"**{_escape(table.title)}**", to_markdown(table)]
    if record.notes:
        parts.append("\n".join(f"- {_escape(note)}" for note in record.notes))
    return "\n\n".join(parts) + "\n"


def _escape(text: str) -> str:
    """Text that Markdown shows as it is: no cell breaks, no HTML."""
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())
