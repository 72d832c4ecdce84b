"""bench.json: what is read back is what was measured, and a damaged file is one clear line."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dashdeploy.bench.record.record import Record, dumps, load_record, parse, speedups
from dashdeploy.errors import UserError


def test_a_record_survives_writing_and_reading(record: Record) -> None:
    assert parse(dumps(record)) == record


def test_the_written_record_holds_what_the_benchmark_put_in(record: Record, payload: dict[str, Any]) -> None:
    written = json.loads(dumps(record))
    created = written.pop("created"), payload.pop("created")
    assert [text.replace("Z", "+00:00") for text in created] == [created[1]] * 2
    assert written == payload


def test_nan_is_written_as_null_and_read_as_nan(payload: dict[str, Any]) -> None:
    payload["quality"]["rows"][0]["fid"]["low"] = None
    record = parse(json.dumps(payload))
    assert math.isnan(record.quality.rows[0].fid.low)
    assert json.loads(dumps(record))["quality"]["rows"][0]["fid"]["low"] is None
    assert "NaN" not in dumps(record)


def test_further_terms_of_a_training_line_can_be_nan(payload: dict[str, Any]) -> None:
    payload["training"][0]["anchor"] = None
    point = parse(json.dumps(payload)).training[0]
    assert math.isnan(point.value("anchor")) and math.isnan(point.value("no such term"))
    assert point.value("imitation") == payload["training"][0]["imitation"]


def test_literal_nan_is_refused(payload: dict[str, Any]) -> None:
    payload["compression"] = math.nan
    with pytest.raises(UserError, match="NaN is not JSON"):
        parse(json.dumps(payload))


@pytest.mark.parametrize("version", [None, 0, 3, 5, "4", True])
def test_another_format_version_is_refused_by_name(payload: dict[str, Any], version: object) -> None:
    payload["format"] = version
    with pytest.raises(UserError, match=f"format 4: its format is {version!r}"):
        parse(json.dumps(payload), source="bench.json")


@pytest.mark.parametrize("text", ["", "{", "[]", '"x"', "null"])
def test_a_damaged_file_is_one_line(text: str) -> None:
    with pytest.raises(UserError, match="not a benchmark record") as caught:
        parse(text)
    assert "\n" not in str(caught.value)


def test_every_problem_is_reported_at_once(payload: dict[str, Any]) -> None:
    payload["latency"][3]["p50_ms"] = "fast"
    payload["surprise"] = 1
    del payload["machine"]["cpu"]
    with pytest.raises(UserError) as caught:
        parse(json.dumps(payload))
    assert all(place in str(caught.value) for place in ("latency.3.p50_ms", "surprise", "machine.cpu"))
    assert "\n" not in str(caught.value)


def test_rows_of_a_model_that_is_not_described_are_refused(payload: dict[str, Any]) -> None:
    del payload["models"]["student-onnx-cpu"]
    with pytest.raises(UserError, match="models lacks 'student-onnx-cpu'"):
        parse(json.dumps(payload))


def test_a_folder_means_its_bench_json(write_folder: Callable[[dict[str, Any]], Path], payload: dict[str, Any]) -> None:
    folder = write_folder(payload)
    assert load_record(folder) == load_record(folder / "bench.json")
    with pytest.raises(UserError, match="no such file or folder"):
        load_record(folder / "missing.json")


def test_the_speed_up_compares_each_model_with_its_faster_branches(payload: dict[str, Any]) -> None:
    for row in payload["latency"]:
        if (row["model"], row["batch_size"], row["scope"]) == ("teacher", 8, "step"):
            row["p50_ms"] = 20.0 if row["branches"] == "two-pass" else 30.0
    payload["pairs"] = []
    ratios = {(s.model, s.batch_size): s.ratio for s in speedups(parse(json.dumps(payload)), "step")}
    assert ratios["student", 8] == pytest.approx(20.0 / 7.2)
    assert ratios["student-onnx-cpu", 8] == pytest.approx(20.0 / 3.4)
    assert set(ratios) == {(model, batch) for model in ("student", "student-onnx-cpu") for batch in (1, 8, 64)}


def test_models_with_one_label_are_told_apart(payload: dict[str, Any]) -> None:
    payload["models"]["student-int8"] = payload["models"]["student-onnx-cpu"]
    record = parse(json.dumps(payload))
    assert record.label("student-int8") == "student (ONNX Runtime), int8"
    assert record.label("student") == "student (torch)"


def test_the_committed_records_can_be_read() -> None:
    results = Path(__file__).resolve().parents[3] / "benchmarks" / "results"
    records = [path for path in results.glob("*.json") if {"models", "latency"} <= set(json.loads(path.read_text()))]
    assert records
    for path in records:
        record = load_record(path)
        assert record.models and record.quality
        assert speedups(record, "step") or not record.latency  # a record may be of quality alone


def test_rows_of_an_unknown_plan_are_refused(payload: dict[str, Any]) -> None:
    del payload["plans"]["interval"]
    with pytest.raises(UserError, match="plans lacks 'interval'"):
        parse(json.dumps(payload))


def test_a_step_has_no_plan_and_a_sampler_has_one(payload: dict[str, Any]) -> None:
    payload["latency"][0]["plan"] = "recipe"
    with pytest.raises(UserError, match="samplers have one and steps have none"):
        parse(json.dumps(payload))


def test_the_interval_study_changes_nothing_but_guidance(payload: dict[str, Any]) -> None:
    payload["plans"]["interval"]["timesteps"] = [999, 499]
    with pytest.raises(UserError, match="differ in more than guidance"):
        parse(json.dumps(payload))


@pytest.mark.parametrize(
    ("held", "words"),
    [
        ({"is_images": True}, "the 1617 of x.npz (SHA-256 333333333333…)"),
        ({"is_images": False, "published": True}, "the statistics of x.npz (SHA-256 333333333333…)"),
        (
            {"is_images": True, "published": True},
            "the statistics of x.npz (SHA-256 333333333333…) and, for all but FID, its 1617 images",
        ),
    ],
)
def test_what_images_are_compared_with_is_told(payload: dict[str, Any], held: dict[str, bool], words: str) -> None:
    payload["quality"]["reference"] = {"file": "x.npz", "sha256": "3" * 64, **held}
    assert parse(json.dumps(payload)).quality.compared_with == words
