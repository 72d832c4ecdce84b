"""The record and its samples as one self-contained HTML page: no scripts, nothing loaded from elsewhere."""

from __future__ import annotations

import base64
import json
import math
import os
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dashdeploy.bench import plots, tables
from dashdeploy.bench.grid import grid_png
from dashdeploy.bench.record import STUDENT, TEACHER, QualityRow, Record, read, speedups
from dashdeploy.bench.tables import Table, count, fixed, interval, significant, times
from dashdeploy.errors import UserError

FILE, SAMPLES = "report.html", "samples.npz"
TEMPLATE = Path(__file__).with_name("report_template.html")
CELL = 40
"""Pixels, about, that an image of the grid is enlarged to."""
TRAINING_LINES = 13


@dataclass(frozen=True)
class Samples:
    """Images by model: (n, C, H, W) uint8, the same noise and labels (n,) in each; columns: images of a row."""

    images: dict[str, NDArray[np.uint8]]
    labels: NDArray[np.int64]
    columns: int


def write_report(folder: Path) -> Path:
    """folder/bench.json and folder/samples.npz into folder/report.html, whole or not at all.

    Raises:
        UserError: the record or the samples are missing or damaged.
    """
    record = read(folder)
    page = render(record, read_samples(folder / SAMPLES, record))
    path, draft = folder / FILE, folder / f".{FILE}.{os.getpid()}"
    try:
        draft.write_text(page, encoding="utf-8")
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return path


def read_samples(path: Path, record: Record) -> Samples:
    """The sample grids that belong to a record.

    Raises:
        UserError: the file is missing, damaged, or does not fit the record.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {name: file[name] for name in file.files}
        columns, labels = int(found.pop("columns")), found.pop("labels")
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: cannot read the sample images ({error!r}). Run `dashdeploy bench` again.") from error
    shapes = {images.shape for images in found.values()}
    fits = (
        found.keys() <= record.models.keys()
        and all(v.dtype == np.uint8 and v.ndim == 4 and v.shape[1] in (1, 3) for v in found.values())
        and len(shapes) == 1
        and labels.shape == (next(iter(shapes))[0],)
        and labels.size > 0
        and 0 <= labels.min() <= labels.max() < len(record.classes)
        and columns >= 1
    )
    if not fits:
        raise UserError(f"{path}: sample images that do not fit the record beside it. Run `dashdeploy bench` again.")
    return Samples({key: found[key] for key in record.models if key in found}, labels.astype(np.int64), columns)


def render(record: Record, samples: Samples) -> str:
    """The page's text."""
    sections = {
        "Samples": _samples(record, samples),
        "Quality": _quality(record),
        "Guidance fidelity": _fidelity(record),
        "Latency": _latency(record),
        "Training": _training(record),
        "Baselines": _baselines(record),
        "Conditions": _conditions(record),
    }
    shown = {name: text for name, text in sections.items() if text}
    body = [f'<section id="{_anchor(name)}"><h2>{name}</h2>\n{text}\n</section>' for name, text in shown.items()]
    machine = record.machine
    where = f"{machine.gpu}, " if machine.gpu else ""
    subtitle = (
        f"Measured {record.created:%Y-%m-%d %H:%M} UTC on {where}{machine.cpu}, {machine.cores} cores, "
        f"{record.threads} threads. Seed {record.seed}."
    )
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=escape(f"{record.recipe}: benchmark"),
        heading=escape(f"{record.recipe}: student against teacher"),
        subtitle=escape(subtitle),
        nav="".join(f'<a href="#{_anchor(name)}">{name}</a>' for name in shown),
        body="\n".join([_verdict(record), *body]),
    )


def deployed(record: Record) -> str:
    """The student that the verdict is about: the first exported one, else the one in torch."""
    return next((key for key in record.students if key != STUDENT), STUDENT)


def _verdict(record: Record) -> str:
    key = deployed(record)
    cards = [_size_card(record, key), _speed_card(record, key), _quality_card(record, key), _guidance_card(record, key)]
    notes = "".join(f"<li>{escape(note)}</li>" for note in record.notes)
    sentence = f'<p class="verdict">{escape(_sentence(record, key))}</p>'
    return f'{sentence}\n<div class="cards">{"".join(cards)}</div>' + (f'<ul class="notes">{notes}</ul>' if notes else "")


def _sentence(record: Record, key: str) -> str:
    ratios = [s.ratio for s in speedups(record, "step") if s.model == key]
    parts = [f"The student has {times(record.compression)} fewer parameters than its teacher"]
    if ratios:
        low, high = times(min(ratios)), times(max(ratios))
        parts[0] += f" and, as {record.label(key)}, takes a guided step {low if low == high else f'{low} to {high}'} as fast"
    teacher, student = record.quality_at(TEACHER, record.guidance), record.quality_at(key, record.guidance)
    if teacher and student:
        parts.append(
            f"At {record.guidance} its FID is {significant(student.fid.value)} "
            f"against the teacher's {significant(teacher.fid.value)}{_told_apart(teacher, student)}"
        )
    if row := record.fidelity_of(key):
        parts.append(
            f"Its guidance has a cosine of {fixed(row.overall.energy_cosine, 2)} with the teacher's "
            f"and {fixed(row.overall.rho, 2)} of its strength (1 and 1 would be a perfect copy)"
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
    ratios = {(s.model, s.batch_size): s.ratio for s in found}
    rows = tuple(
        (record.label(model), *(times(ratios.get((model, size), math.nan)) for size in sizes)) for model in record.students
    )
    table = _plain("", ("Batch", *map(str, sizes)), rows)
    big = max((s.ratio for s in found if s.model == key), default=math.nan)
    return _card("Faster, one guided step", f"up to {times(big)}", _html(table))


def _quality_card(record: Record, key: str) -> str:
    found = {model: record.quality_at(model, record.guidance) for model in dict.fromkeys((TEACHER, STUDENT, key))}
    rows = tuple((record.label(model), interval(row.fid)) for model, row in found.items() if row)
    teacher, student = found[TEACHER], found[key]
    if not teacher or not student:
        return _card(f"FID at {record.guidance}", tables.MISSING, "<p>Not measured at the recipe's guidance.</p>")
    big = f"{significant(teacher.fid.value)} → {significant(student.fid.value)}"
    best = (_best(record, TEACHER), _best(record, key))
    text = ", ".join(f"{significant(row.fid.value)} ({row.guidance})" for row in best if row)
    note = f"<p>Each one's best guidance: {escape(text.replace(', ', ' → '))}.</p>" if all(best) else ""
    return _card(f"FID at {record.guidance}, 0 is best", big, _html(_plain("", ("Model", "FID [95 %]"), rows)), note)


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


def _samples(record: Record, samples: Samples) -> str:
    names = [record.classes[label] for label in samples.labels[:: samples.columns]]
    labels = "".join(f'<li title="{escape(name)}"><span>{escape(name)}</span></li>' for name in names)
    figures = []
    for key, images in samples.images.items():
        scale = max(1, CELL // images.shape[3])
        png = base64.b64encode(grid_png(images, samples.columns, scale=scale)).decode()
        label = record.label(key)
        image = f'<img alt="{escape(f"Samples of {label}, a class a row")}" src="data:image/png;base64,{png}">'
        caption = f"<figcaption>{_chip(record, key)}{escape(label)}</figcaption>"
        figures.append(f'<figure>{caption}<div class="rows"><ol>{labels}</ol>{image}</div></figure>')
    about = (
        f"A row is a class. Every grid starts from the same noise, at the recipe's guidance ({record.guidance}) and "
        f"{record.num_inference_steps} DDIM steps, so images at the same place can be compared one by one."
    )
    return f'<p>{escape(about)}</p><div class="grids">{"".join(figures)}</div>'


def _quality(record: Record) -> str:
    if not record.quality.rows:
        return ""
    quality = record.quality
    about = (
        f"{quality.num_images} images of each model at each guidance against {quality.num_reference} real ones, in the "
        f"features of {quality.features.name}. Distances depend on that network and on the number of images: compare "
        "only figures that share both. Bars and brackets are 95 % intervals."
    )
    panels = [plots.fid_by_guidance(record)]
    if any(row.fid_to_teacher for row in quality.rows):
        panels.append(plots.fid_to_teacher(record))
    return f"<p>{escape(about)}</p>{_panels(panels)}{_html(tables.quality_table(record, full=True), group=0)}"


def _fidelity(record: Record) -> str:
    if not record.fidelity.rows:
        return ""
    about = (
        "Guidance works on the gap: the difference between a model's predictions with the class and without it. A small "
        "model can make good images and still have a wrong gap; it then falls apart as guidance is turned up. Here each "
        f"student's gap is held against the teacher's on {record.fidelity.num_pairs} held-out noisy images."
    )
    panels = [plots.gap_by_timestep(record, metric) for metric in plots.GAP_METRICS]
    parts = [f"<p>{escape(about)}</p>", _panels(panels), _titled(tables.fidelity_table(record, full=True))]
    for row in record.fidelity.rows:
        table = tables.bins_table(record, row)
        parts.append(f"<details open><summary>{escape(table.title)}</summary>{_html(table, meanings=False)}</details>")
    return "".join(parts)


def _latency(record: Record) -> str:
    if not record.latency:
        return _titled(tables.models_table(record))
    about = (
        f"Wall time on this machine with {record.threads} threads, both branches of the guidance included. "
        "Medians (p50) are drawn; dashed lines run the branches as two passes."
    )
    scopes = [scope for scope in ("step", "sampler") if any(row.scope == scope for row in record.latency)]
    panels = _panels([plots.latency_by_batch(record, "step" if scope == "step" else "sampler") for scope in scopes])
    parts = [f"<p>{escape(about)}</p>", panels, _html(tables.latency_table(record, full=True), group=1)]
    if record.pairs:
        parts.append(_titled(tables.pairs_table(record)))
    return "".join([*parts, _titled(tables.models_table(record))])


def _training(record: Record) -> str:
    points = record.training
    if not points:
        return ""
    names = list(dict.fromkeys(name for point in points for name in (*point.terms, *point.__pydantic_extra__)))
    chosen = sorted({round(i) for i in np.linspace(0, len(points) - 1, TRAINING_LINES)})
    rows = tuple(
        (
            count(point.step),
            fixed(point.loss, 4),
            *(fixed(point.value(name), 4) for name in names),
            f"{point.learning_rate:.2e}",
            significant(point.images_per_s),
        )
        for point in (points[i] for i in chosen)
    )
    heads = ("Step", "loss", *names, "Learning rate", "Images/s")
    about = (
        "The loss adds its terms, each times its coefficient in the recipe; the terms are drawn without it. "
        "A term that still falls at the end would gain from more steps."
    )
    return f"<p>{escape(about)}</p>{_panels([plots.loss_terms(record)])}{_html(_plain('', heads, rows, text=0))}"


def _baselines(record: Record) -> str:
    baselines = record.baselines
    if baselines is None:
        return ""
    scales = list(dict.fromkeys(scale for row in baselines.rows for scale in row.fid))
    rows: list[tuple[str, ...]] = []
    for key in dict.fromkeys((TEACHER, deployed(record))):
        found = [record.quality_at(key, scale) for scale in scales]
        gap = record.fidelity_of(key)
        own = (fixed(gap.overall.energy_cosine), fixed(gap.overall.rho)) if gap else (fixed(1.0), fixed(1.0))
        rows.append((record.label(key), *(significant(q.fid.value) if q else tables.MISSING for q in found), *own))
    for row in baselines.rows:
        fids = (significant(row.fid.get(scale, math.nan)) for scale in scales)
        rows.append((row.label, *fids, fixed(row.energy_cosine), fixed(row.rho)))
    parts = [
        f"<p>Controls of the same size and training length, measured in the same way ({escape(baselines.source)}).</p>",
        _html(_plain("", ("Model", *(f"FID, {scale}" for scale in scales), "Cosine", "ρ"), tuple(rows))),
    ]
    if baselines.recovery:
        shares = tuple((scale, tables.percent(share)) for scale, share in baselines.recovery.items())
        parts.append("<h3>Recovered by distillation</h3>")
        parts.append(
            "<p>How much of the way in FID from the same student trained from scratch (0 %) to the teacher (100 %).</p>"
        )
        parts.append(_html(_plain("", ("Guidance", "Recovered (%)"), shares)))
    return "".join(parts)


def _conditions(record: Record) -> str:
    settings = record.settings.model_dump(mode="json")
    timesteps = settings.pop("timesteps")
    groups: dict[str, dict[str, Any]] = {
        "Machine": record.machine.model_dump(mode="json"),
        "Versions": record.versions,
        **{f"Settings: {name}": values for name, values in settings.items()},
        "Timesteps": {f"{len(timesteps)} steps": ", ".join(map(str, timesteps))},
        "SHA-256": {
            **{record.label(key): model.sha256 for key, model in record.models.items()},
            f"features {record.quality.features.name}": record.quality.features.sha256,
        },
    }
    parts = []
    for title, values in groups.items():
        rows = "".join(f'<tr><td>{escape(key)}</td><td class="wrap">{escape(_say(v))}</td></tr>' for key, v in values.items())
        parts.append(f"<h3>{escape(title)}</h3><table><tbody>{rows}</tbody></table>")
    return f"<details><summary>Machine, versions, settings and hashes</summary>{''.join(parts)}</details>"


def _say(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _panels(figures: Iterable[str]) -> str:
    # An inline SVG takes its namespaces from HTML.
    shown = (figure.replace(' xmlns="http://www.w3.org/2000/svg"', "") for figure in figures)
    shown = (figure.replace(' xmlns:xlink="http://www.w3.org/1999/xlink"', "") for figure in shown)
    return f'<div class="panels">{"".join(f"<figure>{figure}</figure>" for figure in shown)}</div>'


def _chip(record: Record, model: str) -> str:
    place = plots.SERIES.index(plots.model_style(record, model).color)
    return f'<span class="chip" style="background: var(--series-{place})"></span>'


def _plain(title: str, headings: Sequence[str], rows: tuple[tuple[str, ...], ...], *, text: int = 1) -> Table:
    """A table whose first `text` columns are text and the others numbers."""
    numeric = tuple(i >= text for i in range(len(headings)))
    return Table(title, tuple(headings), ("",) * len(headings), numeric, rows)


def _titled(table: Table) -> str:
    return f"<h3>{escape(table.title)}</h3>{_html(table)}"


def _html(table: Table, *, group: int | None = None, meanings: bool = True) -> str:
    """group: the column at whose change a new group of rows begins; meanings: explain the columns below."""

    def line(tag: str, cells: Sequence[str], *, first: bool = False) -> str:
        marked = ((' class="n"' if numeric else "", cell) for numeric, cell in zip(table.numeric, cells, strict=True))
        inner = "".join(f"<{tag}{mark}>{escape(cell)}</{tag}>" for mark, cell in marked)
        return f"<tr{' class="first"' if first else ''}>{inner}</tr>"

    before: Sequence[Sequence[str]] = [table.rows[0], *table.rows] if table.rows else []
    rows = "".join(
        line("td", row, first=group is not None and row[: group + 1] != previous[: group + 1])
        for previous, row in zip(before, table.rows, strict=False)
    )
    pairs = zip(table.headings, table.meanings, strict=True)
    explained = "".join(f"<li><b>{escape(heading)}</b>: {escape(text)}.</li>" for heading, text in pairs if text)
    shown = f'<ul class="meanings">{explained}</ul>' if meanings and explained else ""
    head = line("th", table.headings)
    return f'<div class="scroll"><table><thead>{head}</thead><tbody>{rows}</tbody></table></div>{shown}'


def _anchor(name: str) -> str:
    return name.lower().replace(" ", "-")
