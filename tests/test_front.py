"""benchmarks/front.py: a row for each guidance, solver and number of steps, and what is made of them."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from dashdeploy.diffusion.sampling import plan
from dashdeploy.recipe.schema import Sampling, Tag
from tests.scripts import load

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture(scope="module")
def measured(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """The result and the plot of a tiny run."""
    out = tmp_path_factory.mktemp("front")
    options = ["--steps", "3", "4", "--images", "24", "--batch", "4", "--repeats", "1", "--threads", "1"]
    load(BENCHMARKS / "front.py").main([str(tiny_run), *options, "--results", str(out), "--plots", str(out)])
    return json.loads((out / "front-tiny.json").read_text()), (out / "front-tiny.svg").read_text()


def test_a_row_for_each_guidance_solver_and_number_of_steps(measured: tuple[dict[str, Any], str]) -> None:
    result, _ = measured
    assert result["seed"] == 0 and result["num_images"] == 24
    found = {(row["guidance"], row["solver"], row["num_inference_steps"]): row for row in result["rows"]}
    assert len(found) == len(result["rows"]) == 3 * 2 * 2
    assert {key[0] for key in found} == {"w=2", "w=2 in 0.2–0.8", "TAG 1–4"}
    # The sampler graph of this run has four steps; a solver other than DDIM has no graph of its own.
    assert [found["w=2", "ddim", n]["graph"] for n in (3, 4)] == ["step", "sampler"]
    assert {row["graph"] for row in result["rows"] if row["solver"] == "dpmpp_2m"} == {"guided"}
    for row in result["rows"]:
        assert row["median_ms"] > 0 and math.isfinite(row["fid"]) and 0 < row["distance"] < 2
        assert (row["cond_only_steps"] > 0) == (row["guidance"] == "w=2 in 0.2–0.8")


def outside_of_the_axes(element: ElementTree.Element) -> list[str | None]:
    """The texts of a plot but for the numbers on its axes, which can be equal to a number of steps."""
    if re.search(r"(^|-)[xy]tick_", element.get("id", "")):
        return []
    own = [element.text] if element.tag == "{http://www.w3.org/2000/svg}text" else []
    return own + [text for child in element for text in outside_of_the_axes(child)]


def test_only_the_last_step_is_cut_into_small_ones() -> None:
    sampling = Sampling(num_inference_steps=4, solver="ddim", guidance=Tag())
    coarse = plan(sampling, 1000)
    fine = plan(sampling.model_copy(update={"num_inference_steps": 10}), 1000)
    found = load(BENCHMARKS / "front.py").fine_end(coarse, fine)
    assert found.timesteps == (999, 749, 499, 249, 199, 99)
    assert [step.t_prev for step in found.steps()] == [749, 499, 249, 199, 99, -1]
    assert found.weights == (*coarse.weights, *fine.weights[-2:]) and found.solver == "ddim"


def test_the_table_has_both_solvers_side_by_side(measured: tuple[dict[str, Any], str]) -> None:
    result, _ = measured
    text = load(BENCHMARKS / "speed_tables.py").RENDERERS["front"](result)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 3 * 2
    assert "FID, DDIM | FID, DPM-Solver++(2M)" in lines[0]
    assert all(line.count("|") == lines[0].count("|") for line in lines)


def test_the_plot_is_the_same_each_time_and_says_no_date(measured: tuple[dict[str, Any], str]) -> None:
    result, drawn = measured
    assert drawn == load(BENCHMARKS / "front_plot.py").plot(result)
    assert "dc:date" not in drawn
    texts = outside_of_the_axes(ElementTree.fromstring(drawn))
    assert {"DDIM", "DPM-Solver++(2M)", "w=2", "TAG 1–4"} <= set(texts)
    assert texts.count("3") == texts.count("4") == 6  # each point with its steps
