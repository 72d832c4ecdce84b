"""Plots: well-formed, deterministic SVG that shows every series."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from typing import Any
from xml.etree import ElementTree

import pytest

from dashdeploy.bench.record.record import Record, parse
from dashdeploy.bench.report import plots

PANELS: dict[str, Callable[[Record], str]] = {
    "fid": plots.fid_by_guidance,
    "fid_to_teacher": plots.fid_to_teacher,
    **{metric: partial(plots.gap_by_timestep, metric=metric) for metric in plots.GAP_METRICS},
    "step": partial(plots.latency_by_batch, scope="step"),
    "sampler": partial(plots.latency_by_batch, scope="sampler"),
    "loss": plots.loss_terms,
}


def texts(svg: str) -> list[str]:
    return [text.strip() for text in ElementTree.fromstring(svg).itertext() if text.strip()]


@pytest.mark.parametrize("name", PANELS)
def test_a_plot_is_the_same_svg_every_time(record: Record, name: str) -> None:
    svg = PANELS[name](record)
    assert svg == PANELS[name](record)
    assert ElementTree.fromstring(svg).tag.endswith("svg")
    assert "<metadata" not in svg and "2026" not in svg


def test_ids_are_unique_over_all_plots_and_every_reference_is_met(record: Record) -> None:
    drawn = [panel(record) for panel in PANELS.values()]
    ids = [i for svg in drawn for i in re.findall(r'\bid="([^"]+)"', svg)]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="|url\()#([^")]+)', "".join(drawn))) <= set(ids)


def test_every_model_has_a_line_and_tag_its_own_place(record: Record) -> None:
    shown = texts(plots.fid_by_guidance(record))
    assert {"teacher (torch)", "student (torch)", "TAG 1–4", "log scale"} <= set(shown)
    assert "teacher (torch)" not in texts(plots.fid_to_teacher(record))


def test_a_model_keeps_its_colour_in_every_plot(record: Record) -> None:
    styles = [plots.model_style(record, model) for model in record.models]
    assert len(set(styles)) == len(styles)
    for name in ("fid", "fid_to_teacher", "rho", "step"):
        assert styles[1].color in PANELS[name](record)


def test_a_line_on_top_of_another_is_dashed_and_said_so(record: Record, payload: dict[str, Any]) -> None:
    assert "student (ONNX Runtime), same line" in texts(plots.gap_by_timestep(record, "rho"))
    for gap in payload["fidelity"]["rows"][1]["bins"]:
        gap["rho"] *= 1.05
    other = texts(plots.gap_by_timestep(parse(json.dumps(payload)), "rho"))
    assert "student (ONNX Runtime)" in other and not any("same line" in text for text in other)


def test_missing_intervals_draw_no_bars(payload: dict[str, Any]) -> None:
    with_bars = plots.fid_by_guidance(parse(json.dumps(payload)))
    for row in payload["quality"]["rows"]:
        row["fid"].update(low=None, high=None)
    without = plots.fid_by_guidance(parse(json.dumps(payload)))
    assert "nan" not in without.lower()
    assert without.count("LineCollection") == with_bars.count("LineCollection")
    assert len(without) < len(with_bars)


def test_a_model_measured_at_one_guidance_is_still_drawn(payload: dict[str, Any]) -> None:
    rows = payload["quality"]["rows"]
    payload["quality"]["rows"] = [r for r in rows if r["model"] != "student" or r["guidance"] == "w=2"]
    assert "student (torch)" in texts(plots.fid_by_guidance(parse(json.dumps(payload))))


def test_a_loss_that_is_not_positive_gets_a_linear_axis(payload: dict[str, Any]) -> None:
    payload["training"][-1]["loss"] = -0.2
    assert any(text.startswith("−") for text in texts(plots.loss_terms(parse(json.dumps(payload)))))


def test_names_are_text_and_not_markup(payload: dict[str, Any]) -> None:
    payload["models"]["student"]["label"] = "<script>--> $x^2$ & co"
    svg = plots.latency_by_batch(parse(json.dumps(payload)), "step")
    assert "<script>" not in svg
    assert "<script>--> $x^2$ & co" in texts(svg)
