"""The record and its grids of images as one self-contained HTML page: no scripts, nothing loaded from elsewhere.

`report.html.j2` holds the page's markup and prose; here is what it shows.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from dashdeploy.bench.record import grids
from dashdeploy.bench.record.front import front_of
from dashdeploy.bench.record.grids import Grids, read_grids
from dashdeploy.bench.record.parts import ArtifactChecks
from dashdeploy.bench.record.record import Record, load_record
from dashdeploy.bench.record.times import SCOPES
from dashdeploy.bench.report import check_tables, overview, plots, response_tables, tables, verdict
from dashdeploy.bench.report.front import front_plot, front_table
from dashdeploy.files import write_whole
from dashdeploy.report.cells import count, fixed, significant
from dashdeploy.report.grid import grid_png
from dashdeploy.report.plots import SERIES
from dashdeploy.report.table import Table, plain

FILE = "report.html"
TEMPLATE = "report.html.j2"
CELL = 40
"""Pixels, about, to which an image of a grid is enlarged."""
TRAINING_LINES = 13


def write_report(folder: Path) -> Path:
    """folder/bench.json and folder/samples.npz into folder/report.html, whole or not at all.

    Raises:
        UserError: the record or the samples are missing or damaged.
    """
    record = load_record(folder)
    page = render(record, read_grids(folder / grids.FILE, record))
    path = folder / FILE
    write_whole(path, page)
    return path


def render(record: Record, samples: Grids) -> str:
    """The page's text."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["anchor"] = _anchor
    page = environment.get_template(TEMPLATE).render(
        record=record,
        sections=_sections(record),
        verdict={"sentence": verdict.sentence(record), "cards": verdict.cards(record)},
        overview=overview.overview_table(record),
        front=_front(record),
        own_steps=overview.own_steps_table(record),
        grids=_grids(record, samples),
        quality=_quality(record),
        fidelity=_fidelity(record),
        checks=_checks(record),
        latency=_latency(record),
        guidance_interval={
            "times": tables.guidance_interval_table(record),
            "quality": tables.guidance_interval_quality_table(record),
        },
        training=_training(record),
        baselines={"table": tables.baselines_table(record), "recovery": tables.recovery_table(record)},
        conditions=_conditions(record),
    )
    return page.lstrip()


def _sections(record: Record) -> list[str]:
    """Titles of the sections that there is something to show in, in their order."""
    shown = {
        "Overview": overview.overview_table(record).rows,
        "Front": front_of(record),
        "Samples": True,
        "Quality": record.quality.rows,
        "Guidance fidelity": record.fidelity.rows,
        "Guidance gate": record.checks,
        "Latency": True,
        "Guidance interval": record.guidance_interval,
        "Training": record.training,
        "Baselines": record.baselines,
        "Conditions": True,
    }
    return [title for title, content in shown.items() if content]


def _front(record: Record) -> dict[str, Any]:
    found = front_of(record)
    return {"panels": _inline([front_plot(found)]), "table": front_table(found)} if found else {}


def _grids(record: Record, samples: Grids) -> dict[str, Any]:
    """The class of each row, and each model's grid as a base64 PNG with the place of its colour in the palette."""
    return {
        "class_names": [record.classes[label] for label in samples.labels[:: samples.columns]],
        "models": [
            {
                "label": record.label(key),
                "series": SERIES.index(plots.model_style(record, key).color),
                "png": base64.b64encode(
                    grid_png(images, samples.columns, scale=max(1, CELL // images.shape[3]))
                ).decode(),
            }
            for key, images in samples.images.items()
        ],
    }


def _quality(record: Record) -> dict[str, Any]:
    if not record.quality.rows:
        return {}
    drawn = [plots.fid_by_guidance(record)]
    if any(row.fid_to_teacher for row in record.quality.rows):
        drawn.append(plots.fid_to_teacher(record))
    return {"panels": _inline(drawn), "table": tables.quality_table(record, full=True)} | {
        "confidence": response_tables.confidence_table(record)
    }


def _fidelity(record: Record) -> dict[str, Any]:
    if not record.fidelity.rows:
        return {}
    return {
        "panels": _inline(plots.gap_by_timestep(record, metric) for metric in plots.GAP_METRICS),
        "table": tables.fidelity_table(record, full=True),
        "by_timestep": [tables.bins_table(record, row) for row in record.fidelity.rows],
        "response": response_tables.response_table(record, full=True),
        "response_by_timestep": [response_tables.response_by_timestep(record, key) for key in record.students],
    }


def _checks(record: Record) -> dict[str, Any]:
    return {
        "gates": [_gate(record, checks) for checks in record.checks if checks.gate],
        "tables": [
            check_tables.parity_table(record),
            check_tables.graphs_table(record),
            check_tables.decoder_table(record),
            check_tables.layers_table(record),
        ],
    }


def _gate(record: Record, checks: ArtifactChecks) -> dict[str, Any]:
    gate = checks.gate
    assert gate is not None
    return {
        "ladder": check_tables.ladder_table(f"{record.label(checks.model)}: the ladder, all t", gate),
        "float_layers": checks.float_layers,
        "failures": [failure for rung in gate.rungs for failure in rung.failures],
        "rungs": [check_tables.rung_table(gate, rung) for rung in gate.rungs],
    }


def _latency(record: Record) -> dict[str, Any]:
    scopes = [scope for scope in SCOPES if any(row.scope == scope for row in record.latency)]
    return {
        "panels": _inline(plots.latency_by_batch(record, scope) for scope in scopes),
        "table": tables.latency_table(record, full=True),
        "pairs": tables.pairs_table(record),
        "decoding": tables.decoding_table(record),
        "models": tables.models_table(record),
    }


def _training(record: Record) -> dict[str, Any]:
    return {"panels": _inline([plots.loss_terms(record)]), "table": _training_table(record)} if record.training else {}


def _training_table(record: Record) -> Table:
    """At most TRAINING_LINES lines of the training, spread evenly."""
    points = record.training
    names = list(dict.fromkeys(name for point in points for name in (*point.terms, *point.__pydantic_extra__)))
    places = sorted({round(i) for i in np.linspace(0, len(points) - 1, TRAINING_LINES)})
    rows = [
        (
            count(point.step),
            fixed(point.loss, 4),
            *(fixed(point.value(name), 4) for name in names),
            f"{point.learning_rate:.2e}",
            significant(point.images_per_s),
        )
        for point in (points[i] for i in places)
    ]
    return plain("", ("Step", "loss", *names, "Learning rate", "Images/s"), rows, text_columns=())


def _conditions(record: Record) -> dict[str, dict[str, str]]:
    """Name -> value as text, by group."""
    settings, features = record.settings.model_dump(mode="json"), record.quality.features
    timesteps = settings.pop("timesteps")
    groups: dict[str, dict[str, Any]] = {
        "Machine": record.machine.model_dump(mode="json"),
        "Versions": record.versions,
        **{f"Settings: {name}": values for name, values in settings.items()},
        "Timesteps": {f"{len(timesteps)} steps": ", ".join(map(str, timesteps))},
        "SHA-256": {
            **{record.label(key): model.sha256 for key, model in record.models.items()},
            **({f"features {features.title}": features.sha256} if features else {}),
        },
    }
    return {title: {name: _text(value) for name, value in values.items()} for title, values in groups.items()}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _inline(figures: Iterable[str]) -> list[Markup]:
    """SVG for a page of HTML, which gives it its namespaces; not escaped."""
    namespaces = (' xmlns="http://www.w3.org/2000/svg"', ' xmlns:xlink="http://www.w3.org/1999/xlink"')
    shown = []
    for figure in figures:
        for namespace in namespaces:
            figure = figure.replace(namespace, "")
        shown.append(Markup(figure))
    return shown


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")
