"""A record in Markdown, and the tables of its summary."""

from __future__ import annotations

from collections.abc import Sequence

from dashdeploy.bench.record.record import Record
from dashdeploy.bench.report import overview, response_tables, tables
from dashdeploy.report.table import Table, escape, to_markdown


def summary(record: Record) -> list[Table]:
    """What the terminal and the results pages show; tables without rows are left out."""
    return _with_rows(
        overview.overview_table(record),
        overview.own_steps_table(record),
        tables.models_table(record),
        tables.quality_table(record),
        response_tables.confidence_table(record),
        tables.fidelity_table(record),
        response_tables.response_table(record),
        tables.latency_table(record),
        tables.decoding_table(record),
        tables.guidance_interval_table(record),
        tables.guidance_interval_quality_table(record),
        tables.baselines_table(record),
        tables.recovery_table(record),
    )


def markdown_results(record: Record) -> str:
    """A whole record: where it was measured, the tables, the notes."""
    return _markdown(record, summary(record))


def markdown_overview(record: Record) -> str:
    """A record in short: every model in one table, the guidance interval, guidance fidelity, and the controls."""
    return _markdown(
        record,
        _with_rows(
            overview.overview_table(record),
            overview.own_steps_table(record),
            tables.guidance_interval_table(record),
            tables.fidelity_table(record),
            response_tables.response_table(record),
            tables.baselines_table(record),
            tables.recovery_table(record),
        ),
    )


def _with_rows(*candidates: Table) -> list[Table]:
    return [table for table in candidates if table.rows]


def _markdown(record: Record, shown: Sequence[Table]) -> str:
    where = record.machine.gpu or f"{record.machine.cpu}, {record.machine.cores} cores"
    packages = [name for name in ("torch", "onnxruntime", "onnxruntime-gpu", "openvino") if name in record.versions]
    versions = ", ".join(f"{name} {record.versions[name]}" for name in packages)
    features = record.quality.features
    intro = (
        f"Recipe `{record.recipe}`, seed {record.seed}, measured {record.created:%Y-%m-%d} on {where} "
        f"({record.threads} threads; {versions})."
    )
    if features is not None:
        intro += (
            f" FID and KID in features of {features.title} (SHA-256 `{features.sha256[:12]}…`), "
            f"{record.quality.num_images} images against {record.quality.compared_with}; intervals of FID "
            "are of the expectation at that number of images."
        )
    parts = [escape(intro)]
    for table in shown:
        parts += [f"**{escape(table.title)}**", to_markdown(table)]
    if record.notes:
        parts.append("\n".join(f"- {escape(note)}" for note in record.notes))
    return "\n\n".join(parts) + "\n"
