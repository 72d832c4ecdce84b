"""The report's sections on the guidance gate and on guidance in an interval."""

from __future__ import annotations

from html import escape

from dashdeploy.bench.record.parts import ArtifactChecks
from dashdeploy.bench.record.record import Record
from dashdeploy.bench.report import checks_tables, markup, tables


def gate_html(record: Record) -> str:
    """What each artifact's export measured against the student in torch; '' where there is none."""
    if not record.checks:
        return ""
    about = (
        "Before an artifact is written, it is held against the student in torch, float32. A float32 artifact must "
        "agree closely (parity). A lower precision must pass the guidance gate: both branches, the gap between them "
        "and the guided prediction stay within limits in every range of t, because an error that is small beside a "
        "branch can be as large as the gap that guidance multiplies. The ladder tells what the export costs from what "
        "the precision costs."
    )
    parts = [f"<p>{escape(about)}</p>"]
    parts += [_gate(record, checks) for checks in record.checks if checks.rungs]
    for table in (
        checks_tables.parity_table(record),
        checks_tables.graphs_table(record),
        checks_tables.layer_types_table(record),
    ):
        parts += [markup.titled(table)] if table.rows else []
    elsewhere = [f"{record.label(c.model)}: {c.verified}." for c in record.checks if c.verified]
    parts += [f"<p>{escape(text)}</p>" for text in elsewhere]
    return "".join(parts)


def _gate(record: Record, checks: ArtifactChecks) -> str:
    parts = [markup.titled(checks_tables.ladder_table(record, checks))]
    if checks.int8:
        layers = ", ".join(checks.float_layers) or "none"
        parts.append(f"<p>Layers that stayed in float: {escape(layers)}.</p>")
    failures = [line for rung in checks.rungs for line in rung.failures]
    parts += [f"<p>{escape(f'Past a limit: {line}.')}</p>" for line in failures]
    for rung in checks.rungs:
        table = checks_tables.rung_table(checks, rung)
        shown = " open" if rung is checks.rungs[-1] else ""
        inner = f"<summary>{escape(table.title)}</summary>{markup.table_html(table, meanings=False)}"
        parts.append(f"<details{shown}>{inner}</details>")
    return "".join(parts)


def interval_html(record: Record) -> str:
    """Time and quality of guidance in an interval beside constant guidance; '' where it was not tried."""
    study = record.interval
    if study is None:
        return ""
    plan, constant = record.plans[study.interval], record.plans[study.constant]
    about = (
        f"Guidance at middle noise levels only ({plan.guidance}, as shares of the noise levels) leaves {study.alone} "
        f"of {len(plan.timesteps)} steps without guidance. Those run the conditional branch alone, in a graph of its "
        f"own that does half of the work. Here it is beside {constant.guidance} at every step. The two draw different "
        "images, so the time saved is not a speed-up of the model; whether it is worth it shows in the quality of both."
    )
    return "".join(
        [
            f"<p>{escape(about)}</p>",
            markup.table_html(tables.interval_table(record)),
            markup.titled(tables.interval_quality_table(record)),
        ]
    )
