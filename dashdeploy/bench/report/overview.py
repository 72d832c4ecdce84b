"""Every model of a record in one row: at the recipe's guidance, each with its own steps where these differ."""

from __future__ import annotations

from collections.abc import Callable

from dashdeploy.bench.record import speed
from dashdeploy.bench.record.record import SOLVER_LABELS, TEACHER, Record
from dashdeploy.bench.record.times import LatencyRow
from dashdeploy.bench.report.columns import EVALUATIONS, Column, build, estimate, explained, median_ms, ratio
from dashdeploy.bench.report.tables import NO_RATIO, images, over_torch
from dashdeploy.report.cells import MISSING, count, fixed, kilobytes, significant
from dashdeploy.report.table import Table, plain


def overview_table(record: Record, *, full: bool = False) -> Table:
    """A row for each model: the sampler at the largest batch, quality at the recipe's guidance, size, memory."""
    batch_size = max((row.batch_size for row in record.latency if row.scope == "sampler"), default=None)
    solver = "" if record.solver == SOLVER_LABELS["ddim"] else f"{record.solver} "
    steps = "each with its own steps" if record.has_own_steps else f"{record.num_inference_steps} {solver}steps"
    at = f", {steps} at batch {batch_size}" if batch_size else ""
    columns = overview_columns(record, batch_size) if record.latency or record.quality.rows else ()
    rows = record.models if columns else ()
    of = f"; FID of {images(record.quality)}" if record.quality.rows else ""
    return explained(build(record, f"Overview at {record.guidance}{at}{of}", columns, rows, full=full), NO_RATIO)


def overview_columns(record: Record, batch_size: int | None) -> tuple[Column[str], ...]:
    """Columns of figures that `record` has of each model at this batch."""
    fast = {key: record.fastest(key, "sampler", batch_size) if batch_size else None for key in record.models}
    own = record.has_own_steps
    quality = {key: record.quality_at(key, record.guidance) for key in record.models}
    gaps = {row.model: row.overall for row in record.fidelity.rows}

    def of_row(say: Callable[[LatencyRow], str]) -> Callable[[Record, str], str]:
        return lambda _, key: say(row) if (row := fast[key]) else MISSING

    def fid(_: Record, key: str) -> str:
        return estimate(row.fid) if (row := quality[key]) else MISSING

    return (
        Column("Model", lambda r, key: r.label(key), numeric=False),
        Column("Precision", lambda r, key: r.models[key].precision or MISSING, numeric=False, optional=True),
        Column("Graph", of_row(lambda row: row.graph or MISSING), numeric=False, optional=True),
        Column("Steps", lambda r, key: count(len(r.plan_of(key).timesteps)) if own else MISSING, optional=True),
        Column(EVALUATIONS, lambda r, key: count(r.models[key].evaluations), optional=True),
        Column("Sampler p50 (ms)", lambda r, key: median_ms(fast[key]), optional=True),
        Column("Images/s", of_row(lambda row: significant(row.images_per_s)), optional=True),
        Column("Teacher ÷ this", of_row(lambda row: ratio(record.speedup(TEACHER, row), row)), optional=True),
        Column("Torch ÷ this", of_row(lambda row: over_torch(record, row)), optional=True),
        Column("FID [95 %]", fid, optional=True),
        Column("Gap error", lambda r, key: fixed(gaps[key].relative_error) if key in gaps else MISSING, optional=True),
        Column("Size (kB)", lambda r, key: kilobytes(r.models[key].file_bytes)),
        Column("Memory (MiB)", lambda r, key: fixed(r.models[key].peak_rss_mib, 0), optional=True),
    )


def own_steps_table(record: Record) -> Table:
    """What an image takes where teacher and students have unlike steps; no rows where they share a plan.

    The one table with speed-ups at unlike steps: each stands beside the FID of both.
    """
    sizes = sorted({row.batch_size for row in record.latency if row.scope == "sampler"})
    rows = []
    for size in sizes if record.has_own_steps else ():
        slow = record.fastest(TEACHER, "sampler", size)
        for key in record.models:
            fast = record.fastest(key, "sampler", size)
            if slow is None or fast is None:
                continue
            quality = [record.quality_at(model, record.guidance) for model in (key, TEACHER)]
            rows.append(
                (
                    count(size),
                    record.label(key),
                    count(len(record.plan_of(key).timesteps)),
                    count(fast.evaluations),
                    significant(fast.p50_ms / size),
                    ratio(speed.at_own_steps(slow, fast), fast),
                    *(estimate(row.fid) if row else MISSING for row in quality),
                )
            )
    headings = ("Batch", "Model", "Steps", EVALUATIONS, "ms an image", "Teacher ÷ this", "FID [95 %]", "Teacher's FID")
    title = f"An image, each with its own steps, at {record.guidance}; FID of {images(record.quality)}"
    return explained(plain(title, headings, rows, text_columns=(1,)), NO_RATIO)
