"""The record and its samples as one self-contained HTML page: no scripts, nothing loaded from elsewhere."""

from __future__ import annotations

import base64
import json
import os
import zipfile
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dashdeploy.bench.record.parts import SCOPES, Scope
from dashdeploy.bench.record.record import Record, load_record
from dashdeploy.bench.report import markup, plots, tables
from dashdeploy.bench.report.report_sections import gate_html, interval_html
from dashdeploy.bench.report.tables import count, fixed, significant
from dashdeploy.bench.report.verdict import verdict_html
from dashdeploy.errors import UserError
from dashdeploy.report.grid import grid_png

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
    record = load_record(folder)
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
        "Overview": _overview(record),
        "Samples": _samples(record, samples),
        "Quality": _quality(record),
        "Guidance fidelity": _fidelity(record),
        "Guidance gate": gate_html(record),
        "Latency": _latency(record),
        "Guidance interval": interval_html(record),
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
        body="\n".join([verdict_html(record), *body]),
    )


def _overview(record: Record) -> str:
    table = tables.overview_table(record)
    return markup.table_html(table) if table.rows else ""


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
        f"{record.num_inference_steps} {record.solver} steps, so images at the same place can be compared one by one."
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
    table = tables.quality_table(record, full=True)
    return f"<p>{escape(about)}</p>{markup.panels(panels)}{markup.table_html(table, group=0)}"


def _fidelity(record: Record) -> str:
    if not record.fidelity.rows:
        return ""
    about = (
        "Guidance works on the gap: the difference between a model's predictions with the class and without it. A "
        "small model can make good images and still have a wrong gap; it then falls apart as guidance is turned up. "
        f"Here each student's gap is held against the teacher's on {record.fidelity.num_pairs} held-out noisy images."
    )
    panels = [plots.gap_by_timestep(record, metric) for metric in plots.GAP_METRICS]
    parts = [f"<p>{escape(about)}</p>", markup.panels(panels), markup.titled(tables.fidelity_table(record, full=True))]
    for i, row in enumerate(record.fidelity.rows):
        table = tables.bins_table(record, row)
        inner = f"<summary>{escape(table.title)}</summary>{markup.table_html(table, meanings=False)}"
        parts.append(f"<details{' open' if i == 0 else ''}>{inner}</details>")
    return "".join(parts)


def _latency(record: Record) -> str:
    if not record.latency:
        return markup.titled(tables.models_table(record))
    about = (
        f"Wall time on this machine with {record.threads} threads, both branches of the guidance included. "
        "Medians (p50) are drawn; dashed lines run the branches as two passes. A speed-up stands only "
        "between runs of the same batch, steps and guidance."
    )
    scopes: list[Scope] = [scope for scope in SCOPES if any(row.scope == scope for row in record.latency)]
    panels = markup.panels([plots.latency_by_batch(record, scope) for scope in scopes])
    parts = [f"<p>{escape(about)}</p>", panels, markup.table_html(tables.latency_table(record, full=True), group=1)]
    if record.pairs:
        parts.append(markup.titled(tables.pairs_table(record)))
    return "".join([*parts, markup.titled(tables.models_table(record))])


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
    table = markup.table_html(markup.plain("", heads, rows, text=0))
    return f"<p>{escape(about)}</p>{markup.panels([plots.loss_terms(record)])}{table}"


def _baselines(record: Record) -> str:
    baselines = record.baselines
    if baselines is None:
        return ""
    about = f"Controls of the same size and training length, measured in the same way ({baselines.source})."
    parts = [f"<p>{escape(about)}</p>", markup.table_html(tables.baselines_table(record))]
    if baselines.recovery:
        way = "from the same student trained from scratch (0 %) to the teacher (100 %)"
        parts.append(f"<h3>Recovered by distillation</h3><p>How much of the way in FID {way}.</p>")
        parts.append(markup.table_html(tables.recovery_table(record)))
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
        cells = ((escape(key), escape(_say(value))) for key, value in values.items())
        rows = "".join(f'<tr><td>{key}</td><td class="wrap">{value}</td></tr>' for key, value in cells)
        parts.append(f"<h3>{escape(title)}</h3><table><tbody>{rows}</tbody></table>")
    return f"<details><summary>Machine, versions, settings and hashes</summary>{''.join(parts)}</details>"


def _say(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _chip(record: Record, model: str) -> str:
    place = plots.SERIES.index(plots.model_style(record, model).color)
    return f'<span class="chip" style="background: var(--series-{place})"></span>'


def _anchor(name: str) -> str:
    return name.lower().replace(" ", "-")
