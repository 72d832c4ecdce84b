"""The record as tables: one definition of columns for the terminal, Markdown and the report."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from rich.table import Table as RichTable

from dashdeploy.bench.record.parts import FidelityRow, Gap, LatencyRow, Pair, QualityRow
from dashdeploy.bench.record.record import SOLVERS, STUDENT, TEACHER, Record
from dashdeploy.bench.report.cells import (
    MISSING,
    count,
    fixed,
    interval,
    kilobytes,
    median_ms,
    percent,
    significant,
    span,
    times,
)
from dashdeploy.bench.report.table import Column, Table, build, escape, to_markdown, to_rich


def over_torch(record: Record, row: LatencyRow) -> str:
    """The speed-up over the student in torch; – for the teacher, which is another network."""
    return MISSING if row.model == TEACHER else times(record.speedup(STUDENT, row).value)


MODELS: tuple[Column[str], ...] = (
    Column("Model", lambda r, key: r.label(key), numeric=False),
    Column("Runtime", lambda r, key: r.models[key].runtime, numeric=False),
    Column("Precision", lambda r, key: r.models[key].precision or MISSING, numeric=False, optional=True),
    Column("Parameters", lambda r, key: count(r.models[key].parameters)),
    Column("Size (kB)", lambda r, key: kilobytes(r.models[key].file_bytes), "weights, or the graph of a guided step"),
    Column(
        "All graphs (kB)",
        lambda r, key: kilobytes(r.models[key].artifact_bytes),
        "everything that the artifact ships",
        optional=True,
    ),
    Column(
        "Peak memory (MiB)",
        lambda r, key: fixed(r.models[key].peak_rss_mib, 0),
        "the most memory its process held, runtime and Python included",
        optional=True,
    ),
    Column(
        "Load (ms)",
        lambda r, key: significant(r.models[key].load_ms),
        "opening it until its sampler is ready, in a fresh process; imports not counted",
        optional=True,
    ),
    Column(
        "First image (ms)",
        lambda r, key: significant(r.models[key].first_call_ms),
        "the first image after that, all steps",
        optional=True,
    ),
    Column(
        "Build (s)", lambda r, key: significant(r.models[key].build_s), "building all of its engines", optional=True
    ),
    Column(
        "Build peak (MiB)",
        lambda r, key: fixed(r.models[key].build_peak_mib, 0),
        "the most memory that building one of its engines took",
        optional=True,
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
    Column(
        "Runs as",
        lambda r, row: row.way or MISSING,
        "sampler: one graph for all steps; step: a graph a step; guided: a graph a prediction, the rest in torch",
        numeric=False,
    ),
    Column("p50 (ms)", lambda r, row: significant(row.p50_ms), "half of the runs took at most this"),
    Column(
        "p50, 95 % (ms)",
        lambda r, row: span(row),
        "where the median lies with 95 % certainty; none from fewer than six runs",
        full=True,
        optional=True,
    ),
    Column("p90 (ms)", lambda r, row: significant(row.p90_ms), full=True),
    Column("p99 (ms)", lambda r, row: significant(row.p99_ms), "the slowest runs; only as good as their number"),
    Column("Mean (ms)", lambda r, row: significant(row.mean_ms), full=True),
    Column("Images/s", lambda r, row: significant(row.images_per_s), "at the step: images taken one step further"),
    Column(
        "Teacher ÷ this",
        lambda r, row: times(r.speedup(TEACHER, row).value),
        "speed-up: the p50 of the teacher's faster way at the same batch, steps and guidance over this p50",
    ),
    Column(
        "Torch ÷ this",
        lambda r, row: over_torch(r, row),
        "speed-up over the same student in torch, in its faster way",
    ),
    Column("Runs", lambda r, row: count(row.repeats)),
)
PAIRS: tuple[Column[Pair], ...] = (
    Column("What", lambda r, p: "step" if p.scope == "step" else f"{r.num_inference_steps} steps", numeric=False),
    Column("Batch", lambda r, p: count(p.batch_size)),
    Column("Slower", lambda r, p: r.label(p.slow), numeric=False),
    Column("Faster", lambda r, p: r.label(p.fast), numeric=False),
    Column("Ratio of medians", lambda r, p: times(p.ratio), "each in its faster way; drift of the machine meets both"),
    Column("No ratio because", lambda r, p: p.refused or MISSING, numeric=False, optional=True),
)


def overview_table(record: Record, *, full: bool = False) -> Table:
    """Every model in one line: the sampler at the largest batch, quality at the recipe's guidance, size, memory."""
    batch_size = max((row.batch_size for row in record.latency if row.scope == "sampler"), default=None)
    solver = "" if record.solver == SOLVERS["ddim"] else f"{record.solver} "
    at = f", {record.num_inference_steps} {solver}steps at batch {batch_size}" if batch_size else ""
    columns = overview_columns(record, batch_size) if record.latency or record.quality.rows else ()
    rows = record.models if columns else ()
    return build(record, f"Overview at {record.guidance}{at}", columns, rows, full=full)


def overview_columns(record: Record, batch_size: int | None) -> tuple[Column[str], ...]:
    """They read what `record` has of each model at this batch."""
    fast = {key: record.fastest(key, "sampler", batch_size) if batch_size else None for key in record.models}
    quality = {key: record.quality_at(key, record.guidance) for key in record.models}
    gaps = {row.model: row.overall for row in record.fidelity.rows}

    def of_row(say: Callable[[LatencyRow], str]) -> Callable[[Record, str], str]:
        return lambda _, key: say(row) if (row := fast[key]) else MISSING

    def fid(_: Record, key: str) -> str:
        return interval(row.fid) if (row := quality[key]) else MISSING

    return (
        Column("Model", lambda r, key: r.label(key), numeric=False),
        Column("Precision", lambda r, key: r.models[key].precision or MISSING, numeric=False, optional=True),
        Column("Runs as", of_row(lambda row: row.way or MISSING), numeric=False, optional=True),
        Column("Sampler p50 (ms)", lambda r, key: median_ms(fast[key]), optional=True),
        Column("Images/s", of_row(lambda row: significant(row.images_per_s)), optional=True),
        Column("Teacher ÷ this", of_row(lambda row: times(record.speedup(TEACHER, row).value)), optional=True),
        Column("Torch ÷ this", of_row(lambda row: over_torch(record, row)), optional=True),
        Column("FID [95 %]", fid, optional=True),
        Column("Gap error", lambda r, key: fixed(gaps[key].relative_error) if key in gaps else MISSING, optional=True),
        Column("Size (kB)", lambda r, key: kilobytes(r.models[key].file_bytes)),
        Column("Memory (MiB)", lambda r, key: fixed(r.models[key].peak_rss_mib, 0), optional=True),
    )


def interval_table(record: Record) -> Table:
    """What guidance in an interval saves beside constant guidance of the same scale; no rows where it was not tried."""
    study, rows = record.interval, []
    headings: tuple[str, ...] = ("Batch", "Constant p50 (ms)", "Runs as", "Interval p50 (ms)", "Runs as", "Saved (%)")
    for size in sorted({row.batch_size for row in study.latency}) if study else ():
        assert study is not None
        both = [study.row(plan, size) for plan in (study.constant, study.interval)]
        cells = [cell for row in both for cell in (median_ms(row), (row.way if row else None) or MISSING)]
        rows.append((count(size), *cells, percent(study.saved(size))))
    title = "Guidance interval"
    if study:
        plan = record.plans[study.interval]
        title = f"Guidance interval: {record.label(study.model)}, {plan.guidance}, {len(plan.timesteps)} steps"
        headings = tuple(h.replace("Constant", record.plans[study.constant].guidance) for h in headings)
    meanings = ("",) * 5 + ("of the time at constant guidance; below zero the interval takes longer",)
    return Table(title, headings, meanings, (True, True, False, True, False, True), tuple(rows))


def interval_quality_table(record: Record) -> Table:
    """Quality at both guidances of the interval study; no rows where it was not tried."""
    rows = record.interval.quality if record.interval else ()
    return build(record, "Quality of both", QUALITY, rows, full=True)


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
    tables = (
        overview_table,
        models_table,
        quality_table,
        fidelity_table,
        latency_table,
        interval_table,
        interval_quality_table,
        baselines_table,
        recovery_table,
    )
    return [table for build_table in tables if (table := build_table(record)).rows]


def rich_tables(record: Record) -> list[RichTable]:
    """The summary for a rich console."""
    return [to_rich(table) for table in summary(record)]


def markdown_results(record: Record) -> str:
    """All of a record: where it was measured, the tables, the notes."""
    return _markdown(record, summary(record))


def markdown_overview(record: Record) -> str:
    """A record in short: every model in one table, guidance fidelity, and what stands beside it."""
    short = (overview_table, interval_table, fidelity_table, baselines_table, recovery_table)
    return _markdown(record, [table for build_table in short if (table := build_table(record)).rows])


def _markdown(record: Record, shown_tables: Sequence[Table]) -> str:
    where = record.machine.gpu or f"{record.machine.cpu}, {record.machine.cores} cores"
    shown = [name for name in ("torch", "onnxruntime", "onnxruntime-gpu", "openvino") if name in record.versions]
    versions = ", ".join(f"{name} {record.versions[name]}" for name in shown)
    features = record.quality.features
    intro = (
        f"Recipe `{record.recipe}`, seed {record.seed}, measured {record.created:%Y-%m-%d} on {where} "
        f"({record.threads} threads; {versions}). FID and KID in features of {features.name} "
        f"(SHA-256 `{features.sha256[:12]}…`), against {record.quality.num_reference} real images."
    )
    parts = [escape(intro)]
    for table in shown_tables:
        parts += [f"**{escape(table.title)}**", to_markdown(table)]
    if record.notes:
        parts.append("\n".join(f"- {escape(note)}" for note in record.notes))
    return "\n\n".join(parts) + "\n"
