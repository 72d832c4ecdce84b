"""The record as tables: one definition of columns for the terminal, Markdown and the report."""

from __future__ import annotations

import math
from collections.abc import Callable

from dashdeploy.bench.record import speed
from dashdeploy.bench.record.parts import FidelityRow, Quality, QualityRow
from dashdeploy.bench.record.record import RECIPE_PLAN, STUDENT, TEACHER, Record
from dashdeploy.bench.record.times import LatencyRow, Pair
from dashdeploy.bench.report.columns import (
    EVALUATIONS,
    NONE,
    Column,
    build,
    estimate,
    explained,
    median_ms,
    ratio,
    saving,
    t_range,
)
from dashdeploy.bench.report.response_tables import TO_TEACHER
from dashdeploy.figures import GapRow
from dashdeploy.report.cells import MISSING, count, fixed, kilobytes, percent, significant, span, times
from dashdeploy.report.table import Table, plain


def over_torch(record: Record, row: LatencyRow) -> str:
    """The speed-up over the student in torch; – for the teacher, which is another network."""
    return MISSING if row.model == TEACHER else ratio(record.speedup(STUDENT, row), row)


MODELS: tuple[Column[str], ...] = (
    Column("Model", lambda r, key: r.label(key), numeric=False),
    Column("Runtime", lambda r, key: r.models[key].runtime, numeric=False),
    Column("Precision", lambda r, key: r.models[key].precision or MISSING, numeric=False, optional=True),
    Column(
        "Graph",
        lambda r, key: r.models[key].graph or MISSING,
        "what samples: a graph of all steps (sampler), of one (step), or of a guided prediction (guided)",
        numeric=False,
        optional=True,
    ),
    Column("Parameters", lambda r, key: count(r.models[key].parameters)),
    Column(
        "Size (kB)", lambda r, key: kilobytes(r.models[key].file_bytes), "weights, or the graph of a guided prediction"
    ),
    Column(
        "All graphs (kB)",
        lambda r, key: kilobytes(r.models[key].artifact_bytes),
        "all graphs of the artifact together",
        optional=True,
    ),
    Column(
        "Peak memory (MiB)",
        lambda r, key: fixed(r.models[key].peak_rss_mib, 0),
        "the most memory that a process held which ran its graph at the largest batch, runtime and Python included",
        optional=True,
    ),
    Column(
        "Load (ms)",
        lambda r, key: significant(r.models[key].load_ms),
        "time to open it until its sampler is ready, in a fresh process; imports are not counted",
        optional=True,
    ),
    Column(
        "First image (ms)",
        lambda r, key: significant(r.models[key].first_call_ms),
        "time of the first image after that, all steps",
        optional=True,
    ),
    Column(
        "Build (s)",
        lambda r, key: significant(r.models[key].build_s),
        "time to build all of its engines",
        optional=True,
    ),
    Column(
        "Build peak (MiB)",
        lambda r, key: fixed(r.models[key].build_peak_mib, 0),
        "the most memory that building one of its engines took",
        optional=True,
    ),
    Column("SHA-256", lambda r, key: r.models[key].sha256 or MISSING, numeric=False, full=True),
)


def _neighbours(name: str) -> Callable[[Record, QualityRow], str]:
    return lambda _, row: MISSING if row.neighbours is None else fixed(getattr(row.neighbours, name), 3)


QUALITY: tuple[Column[QualityRow], ...] = (
    Column("Guidance", lambda r, q: q.guidance, "how strongly the class is pushed; w = 1 is off", numeric=False),
    Column("Model", lambda r, q: r.label(q.model), numeric=False),
    Column(
        "FID [95 %]",
        lambda r, q: estimate(q.fid),
        "distance of its images to real ones; 0 is best. It grows as images get fewer; the interval is of the "
        "expectation at this number of images",
    ),
    Column(
        "FID to teacher [95 %]",
        lambda r, q: estimate(q.fid_to_teacher),
        "distance to the teacher's images of the same noise and guidance: what the compression lost; 0 is best",
        optional=True,
    ),
    *TO_TEACHER,
    Column(
        "KID [95 %]",
        lambda r, q: estimate(q.kid),
        "another distance to real images, which their number does not bias; 0 is best",
        optional=True,
    ),
    Column(
        "Accuracy (%)",
        lambda r, q: percent(q.accuracy),
        "share that a classifier of the data's classes takes for the requested class",
        optional=True,
    ),
    *(
        Column(name.capitalize(), _neighbours(name), meaning, optional=True, full=True)
        for name, meaning in (
            (
                "precision",
                "share of its images that are as near to a real one as real ones are to each other; 1 is best",
            ),
            ("recall", "share of the real images that are as near to one of its images as these are to each other"),
            ("density", "how many real images one of its images is near to, over what is expected of real ones, 1"),
            ("coverage", "share of the real images that have one of its images near to them; 1 is best"),
        )
    ),
)
_GAP: tuple[tuple[str, str, int, bool, str], ...] = (
    ("energy_cosine", "Cosine", 3, False, "whether its guidance points where the teacher's does; 1 is best"),
    ("rho", "ρ", 3, False, "strength of its guidance over the teacher's; 1 is best, and means little at a low cosine"),
    ("relative_error", "Relative error", 3, False, "how far its guidance is from the teacher's; 0 is best"),
    ("guided_error", "Guided error", 3, False, "how far its final, guided prediction is from the teacher's; 0 is best"),
    ("mean_cosine", "Mean cosine", 3, True, "mean of the cosines of all draws; 1 is best"),
    ("slope", "Slope", 3, True, "share of the teacher's guidance that it reproduces in that direction; 1 is best"),
    ("mse", "MSE a pixel", 5, True, "mean square difference of the two guidances; 0 is best"),
    ("cond_error", "Cond. error", 3, True, "relative error of the prediction for the class; 0 is best"),
    ("uncond_error", "Uncond. error", 3, True, "relative error of the prediction without a class; 0 is best"),
)


def _gap_columns() -> tuple[Column[GapRow], ...]:
    def cell(name: str, decimals: int) -> Callable[[Record, GapRow], str]:
        return lambda _, gap: fixed(getattr(gap, name), decimals)

    return tuple(Column(heading, cell(n, d), meaning, full=full) for n, heading, d, full, meaning in _GAP)


GAP = _gap_columns()
FIDELITY: tuple[Column[FidelityRow], ...] = (
    Column("Model", lambda r, f: r.label(f.model), numeric=False),
    *(Column(c.heading, lambda r, f, c=c: c.cell(r, f.overall), c.meaning, full=c.full) for c in GAP),  # type: ignore[misc]
    Column("Draws", lambda r, f: count(f.overall.num), full=True),
)
GAP_BINS: tuple[Column[GapRow], ...] = (
    Column("t", lambda r, g: t_range(g.t_low, g.t_high), numeric=False),
    *GAP,
    Column("Draws", lambda r, g: count(g.num), full=True),
)
EVALUATIONS_OF_ROW: Column[LatencyRow] = Column(
    EVALUATIONS,
    lambda r, row: count(row.evaluations),
    "how often the network runs for an image: twice a guided step, once with one branch",
    optional=True,
)
LATENCY: tuple[Column[LatencyRow], ...] = (
    Column(
        "What",
        lambda r, row: "step" if row.plan is None else f"{len(r.plans[row.plan].timesteps)} steps",
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
        "Graph",
        lambda r, row: row.graph or MISSING,
        "the one that ran: of all steps (sampler), of one step (step), or of one guided prediction (guided)",
        numeric=False,
    ),
    EVALUATIONS_OF_ROW,
    Column("p50 (ms)", lambda r, row: significant(row.p50_ms), "half of the runs took at most this"),
    Column(
        "p50, 95 % (ms)",
        lambda r, row: span(row.p50_ms, row.p50_low_ms, row.p50_high_ms),
        "where the median lies with 95 % certainty; none from fewer than six runs",
        full=True,
        optional=True,
    ),
    Column("p90 (ms)", lambda r, row: significant(row.p90_ms), "from ten runs on", full=True, optional=True),
    Column(
        "p99 (ms)",
        lambda r, row: significant(row.p99_ms),
        "99 of 100 runs took at most this; from a hundred runs on",
        optional=True,
    ),
    Column("Mean (ms)", lambda r, row: significant(row.mean_ms), full=True),
    Column("Images/s", lambda r, row: significant(row.images_per_s), "for a step: images that went one step further"),
    Column(
        "Teacher ÷ this",
        lambda r, row: ratio(r.speedup(TEACHER, row), row),
        "speed-up over the teacher, with its faster branches, at the same batch, steps and guidance",
    ),
    Column(
        "Torch ÷ this",
        lambda r, row: over_torch(r, row),
        "speed-up over the same student in torch, with its faster branches",
    ),
    Column("Runs", lambda r, row: count(row.repeats)),
)
PAIRS: tuple[Column[Pair], ...] = (
    Column("What", lambda r, p: "step" if p.scope == "step" else f"{r.num_inference_steps} steps", numeric=False),
    Column("Batch", lambda r, p: count(p.batch_size)),
    Column("Slower", lambda r, p: r.label(p.slow), numeric=False),
    Column("Faster", lambda r, p: r.label(p.fast), numeric=False),
    Column(
        "Ratio of medians [95 %]",
        lambda r, p: pair_ratio(p),
        "each with its faster branches; they took turns, so a change of the machine's speed meets both",
    ),
    Column("No ratio because", lambda r, p: p.refused or MISSING, numeric=False, optional=True),
)
NO_RATIO = "the 95 % interval of the ratio holds 1"
NO_SAVING = "one graph ran both, or the difference is within the noise"


def pair_ratio(pair: Pair) -> str:
    """``7.6× [7.4, 7.9]``; none in place of the ratio where the interval holds 1."""
    figure = NONE if pair.low <= 1 <= pair.high else times(pair.ratio)
    return f"{figure} [{fixed(pair.low, 2)}, {fixed(pair.high, 2)}]" if math.isfinite(pair.low) else figure


def images(quality: Quality) -> str:
    """How many images a distance is of, as in ``1000 images, 2 sampling seeds``."""
    seeds = f", {len(quality.seeds)} sampling seeds" if len(quality.seeds) > 1 else ""
    return f"{quality.num_images} images{seeds}"


def guidance_interval_table(record: Record) -> Table:
    """What guidance in an interval saves over constant guidance of the same scale; no rows where it was not tried."""
    if (study := record.guidance_interval) is None:
        return plain("Guidance interval", (), ())
    constant, interval = record.plans[study.constant_plan], record.plans[study.interval_plan]
    rows = []
    for size in sorted({row.batch_size for row in study.latency}):
        both = [study.row(plan, size) for plan in (study.constant_plan, study.interval_plan)]
        texts = [text for row in both for text in (median_ms(row), (row.graph if row else None) or MISSING)]
        rows.append((count(size), *texts, saving(speed.saved(study, size))))
    table = Table(
        f"Guidance interval: {record.label(study.model)}, {interval.guidance}, {len(interval.timesteps)} steps",
        ("Batch", f"{constant.guidance} p50 (ms)", "Graph", "Interval p50 (ms)", "Graph", "Saved (%) [95 %]"),
        ("",) * 5 + ("of the time with constant guidance; below zero the interval takes longer",),
        (True, True, False, True, False, True),
        tuple(rows),
    )
    return explained(table, NO_SAVING)


def guidance_interval_quality_table(record: Record) -> Table:
    """Quality with both guidances of the study; no rows where it was not tried."""
    rows = record.guidance_interval.quality if record.guidance_interval else ()
    return build(record, f"Quality of both, {images(record.quality)} each", QUALITY, rows, full=True)


def models_table(record: Record, *, full: bool = False) -> Table:
    return build(record, "Models", MODELS, record.models, full=full)


def quality_table(record: Record, *, full: bool = False) -> Table:
    """Models of one guidance stand together."""
    order = {guidance: i for i, guidance in enumerate(dict.fromkeys(row.guidance for row in record.quality.rows))}
    rows = sorted(record.quality.rows, key=lambda row: order[row.guidance])
    return build(record, f"Quality, {images(record.quality)} each", QUALITY, rows, full=full)


def fidelity_table(record: Record, *, full: bool = False) -> Table:
    return build(record, f"Guidance fidelity at {record.guidance}, all t", FIDELITY, record.fidelity.rows, full=full)


def bins_table(record: Record, row: FidelityRow) -> Table:
    return build(record, f"{record.label(row.model)}, by timestep", GAP_BINS, row.bins, full=True)


def latency_table(record: Record, *, full: bool = False) -> Table:
    """Models of one scope, plan and batch stand together."""
    rows = sorted(
        record.latency, key=lambda row: (row.scope != "step", row.plan not in (None, RECIPE_PLAN), row.batch_size)
    )
    return explained(build(record, f"Latency, {record.threads} threads", LATENCY, rows, full=full), NO_RATIO)


def decoding_table(record: Record) -> Table:
    """The decoder's part of each sampler; no rows of models that make images without one."""
    rows = []
    for row in record.decoding:
        whole = record.fastest(row.model, "sampler", row.batch_size)
        share = percent(row.p50_ms / whole.p50_ms) if whole is not None else MISSING
        texts = (count(row.batch_size), record.label(row.model), median_ms(row), median_ms(whole), share)
        rows.append((*texts, count(row.repeats)))
    headings = ("Batch", "Model", "Decoder p50 (ms)", "Sampler p50 (ms)", "Decoder's share (%)", "Runs")
    return plain("Decoding, a part of the sampler", headings, rows, text_columns=(1,))


def pairs_table(record: Record) -> Table:
    return explained(build(record, "Speed-up, runs taking turns", PAIRS, record.pairs, full=True), NO_RATIO)


def baselines_table(record: Record) -> Table:
    """FID and guidance gap of the teacher, the student and the committed controls; no rows without controls."""
    baselines = record.baselines
    scales = list(dict.fromkeys(scale for row in baselines.rows for scale in row.fid)) if baselines else []
    rows: list[tuple[str, ...]] = []
    for key in dict.fromkeys((TEACHER, record.deployed)) if baselines else ():
        measured = [record.quality_at(key, scale) for scale in scales]
        fidelity = record.fidelity_of(key)
        cosine, rho = (fidelity.overall.energy_cosine, fidelity.overall.rho) if fidelity else (1.0, 1.0)
        texts = (significant(row.fid.value) if row else MISSING for row in measured)
        rows.append((record.label(key), *texts, fixed(cosine), fixed(rho)))
    for control in baselines.rows if baselines else ():
        texts = (significant(control.fid.get(scale, math.nan)) for scale in scales)
        rows.append((control.label, *texts, fixed(control.energy_cosine), fixed(control.rho)))
    headings = ("Model", *(f"FID, {scale}" for scale in scales), "Cosine", "ρ")
    title = f"Baselines: same size, same images seen; FID of {record.quality.num_images} images"
    return plain(title, headings, rows)


def recovery_table(record: Record) -> Table:
    """How much of the FID distance from scratch to the teacher distillation recovers; no rows without controls."""
    recovery = record.baselines.recovery if record.baselines else {}
    rows = [("Recovered (%)", *map(percent, recovery.values()))] if recovery else []
    return plain("Recovery: (FID scratch − FID student) / (FID scratch − FID teacher)", ("", *recovery), rows)
