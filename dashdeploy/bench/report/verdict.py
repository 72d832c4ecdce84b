"""How the report opens: one sentence, and a card each for size, speed, quality and guidance."""

from __future__ import annotations

import math
from html import escape

from dashdeploy.bench.record.parts import QualityRow
from dashdeploy.bench.record.record import STUDENT, TEACHER, Record, speedups
from dashdeploy.bench.report import markup, tables
from dashdeploy.bench.report.tables import count, fixed, interval, significant, times


def verdict_html(record: Record) -> str:
    key = record.deployed
    cards = [_size_card(record, key), _speed_card(record, key), _quality_card(record, key), _guidance_card(record, key)]
    notes = "".join(f"<li>{escape(note)}</li>" for note in record.notes)
    sentence = f'<p class="verdict">{escape(_sentence(record, key))}</p>'
    below = f'<ul class="notes">{notes}</ul>' if notes else ""
    return f'{sentence}\n<div class="cards">{"".join(cards)}</div>{below}'


def _sentence(record: Record, key: str) -> str:
    ratios = [s.ratio for s in speedups(record, "step") if s.model == key]
    parts = [f"The student has {times(record.compression)} fewer parameters than its teacher"]
    if ratios:
        span = " to ".join(dict.fromkeys((times(min(ratios)), times(max(ratios)))))
        parts[0] += f" and, as {record.label(key)}, takes a guided step {span} as fast"
    teacher, student = record.quality_at(TEACHER, record.guidance), record.quality_at(key, record.guidance)
    if teacher and student:
        parts.append(
            f"At {record.guidance} its FID is {significant(student.fid.value)} "
            f"against the teacher's {significant(teacher.fid.value)}{_told_apart(teacher, student)}"
        )
        best_student, best_teacher = _best(record, key), _best(record, TEACHER)
        if best_student and best_teacher:
            pair = f"{significant(best_student.fid.value)} against {significant(best_teacher.fid.value)}"
            parts[-1] += f"; each at its own best guidance, it is {pair}"
    if row := record.fidelity_of(key):
        parts.append(
            f"Its guidance has a cosine of {fixed(row.overall.energy_cosine)} with the teacher's "
            f"and {fixed(row.overall.rho)} of its strength (1 and 1 would be a perfect copy)"
        )
    return ". ".join(parts) + "."


def _told_apart(teacher: QualityRow, student: QualityRow) -> str:
    a, b = teacher.fid, student.fid
    if not math.isfinite(a.low + a.high + b.low + b.high):
        return " (no intervals were computed)"
    apart = a.high < b.low or b.high < a.low
    return ", a difference beyond the 95 % intervals" if apart else ", and the 95 % intervals overlap"


def _card(title: str, big: str, *rest: str) -> str:
    return f'<div class="card"><h3>{escape(title)}</h3><div class="big">{escape(big)}</div>{"".join(rest)}</div>'


def _size_card(record: Record, key: str) -> str:
    teacher, student = record.models[TEACHER], record.models[STUDENT]
    files = f"{tables.kilobytes(teacher.file_bytes)} → {tables.kilobytes(record.models[key].file_bytes)} kB on disk"
    lines = (f"{count(teacher.parameters)} → {count(student.parameters)} parameters", files)
    return _card("Smaller", times(record.compression), *(f"<p>{escape(line)}</p>" for line in lines))


def _speed_card(record: Record, key: str) -> str:
    found = speedups(record, "step")
    if not found:
        return _card("Faster", tables.MISSING, "<p>Latency was not measured.</p>")
    sizes = sorted({s.batch_size for s in found})
    models = dict.fromkeys(s.model for s in found)
    ratios = {(s.model, s.batch_size): s.ratio for s in found}
    cells = {model: [times(ratios.get((model, size), math.nan)) for size in sizes] for model in models}
    rows = tuple((record.label(model), *row) for model, row in cells.items())
    table = markup.plain("", ("Batch", *map(str, sizes)), rows)
    big = max((s.ratio for s in found if s.model == key), default=math.nan)
    return _card("Faster, one guided step", f"up to {times(big)}", markup.table_html(table))


def _quality_card(record: Record, key: str) -> str:
    found = {model: record.quality_at(model, record.guidance) for model in dict.fromkeys((TEACHER, STUDENT, key))}
    rows = tuple((record.label(model), interval(row.fid)) for model, row in found.items() if row)
    teacher, student = found[TEACHER], found[key]
    if not teacher or not student:
        return _card(f"FID at {record.guidance}", tables.MISSING, "<p>Not measured at the recipe's guidance.</p>")
    big = f"{significant(teacher.fid.value)} → {significant(student.fid.value)}"
    best = (_best(record, TEACHER), _best(record, key))
    text = ", ".join(f"{significant(row.fid.value)} ({row.guidance})" for row in best if row)
    note = f"<p>At each one's best guidance: {escape(text.replace(', ', ' → '))}.</p>" if all(best) else ""
    table = markup.plain("", ("Model", "FID [95 %]"), rows)
    return _card(f"FID at {record.guidance}, 0 is best", big, markup.table_html(table), note)


def _best(record: Record, model: str) -> QualityRow | None:
    """The row of least FID, if the model was measured at every guidance."""
    rows = [row for row in record.quality.rows if row.model == model and math.isfinite(row.fid.value)]
    every = {row.guidance for row in record.quality.rows}
    return min(rows, key=lambda row: row.fid.value) if {row.guidance for row in rows} == every else None


def _guidance_card(record: Record, key: str) -> str:
    row = record.fidelity_of(key)
    if row is None:
        return _card("Guidance kept", tables.MISSING, "<p>Guidance fidelity was not measured.</p>")
    gap = row.overall
    lines = (
        f"cosine of its guidance with the teacher's; strength ρ {fixed(gap.rho)}",
        f"relative error {fixed(gap.relative_error)}; of the guided prediction {fixed(gap.guided_error)}",
        "A copy of the teacher has cosine 1, ρ 1, errors 0.",
    )
    return _card("Guidance kept", fixed(gap.energy_cosine), *(f"<p>{escape(line)}</p>" for line in lines))
