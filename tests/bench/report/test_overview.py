"""The overview, and the table of an image with each model's own steps."""

from __future__ import annotations

import json
from typing import Any

from dashdeploy.bench.record.record import Record, parse
from dashdeploy.bench.report import overview, plots, tables
from dashdeploy.bench.report.markdown import markdown_results


def rows(table: Any) -> list[dict[str, str]]:
    return [dict(zip(table.headings, row, strict=True)) for row in table.rows]


def test_models_of_one_plan_have_evaluations_and_no_table_of_their_own_steps(record: Record) -> None:
    found = rows(overview.overview_table(record))
    assert [row["Evaluations an image"] for row in found] == ["100"] * 3 and "Steps" not in found[0]
    assert not overview.own_steps_table(record).rows and "own steps" not in markdown_results(record)


def test_a_record_of_before_evaluations_were_counted_has_no_column_of_them(payload: dict[str, Any]) -> None:
    for row in (*payload["models"].values(), *payload["latency"], *payload["guidance_interval"]["latency"]):
        del row["evaluations"]
    record = parse(json.dumps(payload))
    for table in (overview.overview_table(record), tables.latency_table(record)):
        assert "Evaluations an image" not in table.headings
    assert not record.has_own_steps


def test_a_few_step_student_has_its_speed_up_at_equal_steps(few: dict[str, Any]) -> None:
    record = parse(json.dumps(few))
    table = overview.overview_table(record)
    assert "each with its own steps at batch 64" in table.title
    teacher, _, artifact = rows(table)
    assert (teacher["Steps"], teacher["Evaluations an image"]) == ("50", "100")
    assert (artifact["Steps"], artifact["Evaluations an image"]) == ("4", "4")
    assert teacher["Sampler p50 (ms)"].startswith("6900 ") and artifact["Sampler p50 (ms)"].startswith("66.4 ")
    assert artifact["Teacher ÷ this"] == "8.3×", "138 / 16.6, at four steps both"


def test_a_speed_up_at_unlike_steps_stands_beside_the_fid_of_both(few: dict[str, Any]) -> None:
    record = parse(json.dumps(few))
    table = overview.own_steps_table(record)
    assert table.title == "An image, each with its own steps, at w=2; FID of 1000 images, 2 sampling seeds"
    at = {(row["Batch"], row["Model"]): row for row in rows(table)}
    assert len(at) == 9
    student = at["64", "student (ONNX Runtime)"]
    assert (student["ms an image"], student["Teacher ÷ this"]) == ("1.04", "104×")
    assert student["FID [95 %]"].startswith("1.98") and student["Teacher's FID"].startswith("2.01")
    assert "An image, each with its own steps" in markdown_results(record)


def test_latency_rows_say_their_own_steps_and_the_plot_shows_one_plan(few: dict[str, Any]) -> None:
    record = parse(json.dumps(few))
    whats = [row["What"] for row in rows(tables.latency_table(record))]
    assert list(dict.fromkeys(whats)) == ["step", "4 steps", "50 steps"] and whats.count("50 steps") == 6
    alone = parse(json.dumps(few | {"latency": [row for row in few["latency"] if row["plan"] != "teacher"]}))
    assert plots.latency_by_batch(record, "sampler") == plots.latency_by_batch(alone, "sampler")
