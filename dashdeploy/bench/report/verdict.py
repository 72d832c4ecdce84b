"""How the report opens: one sentence, and a card each for size, speed, quality and guidance."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

from dashdeploy.bench.record.parts import QualityRow
from dashdeploy.bench.record.record import STUDENT, TEACHER, Record, speedups
from dashdeploy.bench.report.columns import NONE, estimate
from dashdeploy.bench.report.response_tables import at_other_scale, response_row
from dashdeploy.report.cells import MISSING, count, fixed, kilobytes, significant, times
from dashdeploy.report.table import Table, plain


@dataclass(frozen=True)
class Card:
    """One card: its title, one figure in large type, a table, and lines of text below."""

    title: str
    big: str
    table: Table | None = None
    lines: tuple[str, ...] = ()


def cards(record: Record) -> list[Card]:
    """The four cards, about the deployed student."""
    return [_size_card(record), _speed_card(record), _quality_card(record), _guidance_card(record)]


def sentence(record: Record) -> str:
    """The verdict in words."""
    student = record.deployed
    measured = [s for s in speedups(record, "step") if s.model == student]
    ratios = [s.ratio for s in measured if not s.is_noise]
    size = f"The student has {times(record.compression)} fewer parameters than its teacher"
    if ratios:
        span = " to ".join(dict.fromkeys((times(min(ratios)), times(max(ratios)))))
        size += f" and, as {record.label(student)}, takes a guided step {span} as fast"
        if same := [str(s.batch_size) for s in measured if s.is_noise]:
            size += f" (no difference was seen at batch {', '.join(same)})"
    parts = [size, *_quality_words(record, student)]
    if response := response_row(record):
        found = response.decides
        parts.append(
            f"Guidance{at_other_scale(record, response)} changes its prediction with a cosine of "
            f"{fixed(found.energy_cosine)} to the teacher's change and {fixed(found.rho)} of its strength "
            "(1 and 1 would be a perfect copy)"
        )
    elif row := record.fidelity_of(student):
        parts.append(
            f"Its guidance has a cosine of {fixed(row.overall.energy_cosine)} with the teacher's "
            f"and {fixed(row.overall.rho)} of its strength (1 and 1 would be a perfect copy)"
        )
    return ". ".join(parts) + "."


def _quality_words(record: Record, student: str) -> list[str]:
    of_teacher, of_student = record.quality_at(TEACHER, record.guidance), record.quality_at(student, record.guidance)
    if not of_teacher or not of_student:
        return []
    words = (
        f"At {record.guidance} its FID is {significant(of_student.fid.value)} "
        f"against the teacher's {significant(of_teacher.fid.value)}{_significance(of_teacher, of_student)}"
    )
    best_student, best_teacher = _best(record, student), _best(record, TEACHER)
    if best_student and best_teacher:
        pair = f"{significant(best_student.fid)} against {significant(best_teacher.fid)}"
        words += f"; each at its best guidance, {_chosen(record)}, it is {pair}"
    return [words]


def _significance(teacher: QualityRow, student: QualityRow) -> str:
    a, b = teacher.fid, student.fid
    if not math.isfinite(a.low + a.high + b.low + b.high):
        return " (without confidence intervals)"
    apart = a.high < b.low or b.high < a.low
    return ", a difference beyond the 95 % intervals" if apart else ", and the 95 % intervals overlap"


def _size_card(record: Record) -> Card:
    teacher, student = record.models[TEACHER], record.models[STUDENT]
    deployed = record.models[record.deployed]
    files = f"{kilobytes(teacher.file_bytes)} → {kilobytes(deployed.file_bytes)} kB on disk"
    parameters = f"{count(teacher.parameters)} → {count(student.parameters)} parameters"
    return Card("Smaller", times(record.compression), lines=(parameters, files))


def _speed_card(record: Record) -> Card:
    measured = speedups(record, "step")
    if not measured:
        return Card("Faster", MISSING, lines=("Latency was not measured.",))
    sizes = sorted({s.batch_size for s in measured})
    ratios = {(s.model, s.batch_size): NONE if s.is_noise else times(s.ratio) for s in measured}
    rows = [
        (record.label(model), *(ratios.get((model, size), MISSING) for size in sizes))
        for model in dict.fromkeys(s.model for s in measured)
    ]
    largest = max((s.ratio for s in measured if s.model == record.deployed and not s.is_noise), default=math.nan)
    table = plain("", ("Batch", *map(str, sizes)), rows)
    return Card("Faster, one guided step", f"up to {times(largest)}", table)


def _quality_card(record: Record) -> Card:
    models = dict.fromkeys((TEACHER, STUDENT, record.deployed))
    measured = {model: row for model in models if (row := record.quality_at(model, record.guidance))}
    if TEACHER not in measured or record.deployed not in measured:
        return Card(f"FID at {record.guidance}", MISSING, lines=("Not measured at the recipe's guidance.",))
    big = " → ".join(significant(measured[model].fid.value) for model in (TEACHER, record.deployed))
    best = [one for model in (TEACHER, record.deployed) if (one := _best(record, model))]
    words = " → ".join(f"{significant(one.fid)} ({one.guidance})" for one in best)
    lines = (f"At each one's best guidance, {_chosen(record)}: {words}.",) if len(best) == 2 else ()
    table = plain("", ("Model", "FID [95 %]"), [(record.label(m), estimate(row.fid)) for m, row in measured.items()])
    return Card(f"FID of {record.quality.num_images} images at {record.guidance}, 0 is best", big, table, lines)


@dataclass(frozen=True)
class _Best:
    """The guidance of least FID, and its FID."""

    guidance: str
    fid: float


def _best(record: Record, model: str) -> _Best | None:
    """With several sampling seeds, the choice is the first one's and FID the others' mean, so that they are apart.

    None if the model was not measured at every guidance.
    """
    rows = [row for row in record.quality.rows if row.model == model and math.isfinite(row.fid.value)]
    every = {row.guidance for row in record.quality.rows}
    if {row.guidance for row in rows} != every:
        return None
    best = min(rows, key=lambda row: row.by_seed[0].fid)
    return _Best(best.guidance, statistics.fmean(one.fid for one in best.by_seed[1:] or best.by_seed))


def _chosen(record: Record) -> str:
    several = len(record.quality.seeds) > 1
    return "chosen on one sampling seed and scored on the others" if several else "chosen on the same images"


def _guidance_card(record: Record) -> Card:
    if response := response_row(record):
        found, worst = response.decides, record.response and record.response.weakest(response.model, response.w)
        lines = (
            f"cosine of its response to guidance{at_other_scale(record, response)} with the teacher's; "
            f"strength ρ {fixed(found.rho)}",
            f"relative error {fixed(found.relative_error)}",
            *([f"least at t {worst.t}: cosine {fixed(worst.decides.energy_cosine)}"] if worst else []),
            "A perfect student has cosine 1, ρ 1, error 0.",
        )
        return Card("Guidance kept", fixed(found.energy_cosine), lines=lines)
    row = record.fidelity_of(record.deployed)
    if row is None:
        return Card("Guidance kept", MISSING, lines=("Guidance fidelity was not measured.",))
    gap = row.overall
    lines = (
        f"cosine of its guidance with the teacher's; strength ρ {fixed(gap.rho)}",
        f"relative error {fixed(gap.relative_error)}; of the guided prediction {fixed(gap.guided_error)}",
        "A copy of the teacher has cosine 1, ρ 1, errors 0.",
    )
    return Card("Guidance kept", fixed(gap.energy_cosine), lines=lines)
