"""What guidance does, in the report: which reference decides, where it is weakest, and records without responses."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from dashdeploy.bench.record.diff import Limits, compare
from dashdeploy.bench.record.record import Record, dumps, parse
from dashdeploy.bench.report import response_tables, tables, verdict
from dashdeploy.bench.report.markdown import markdown_overview, markdown_results
from dashdeploy.errors import UserError

Payload = dict[str, Any]


def likeness(cosine: float) -> dict[str, float]:
    return {"rho": cosine + 0.03, "relative_error": 1 - cosine, "energy_cosine": cosine, "slope": cosine - 0.01}


def with_responses(payload: Payload, *, branches: int = 1) -> Payload:
    """Of a few-step student of one branch: beside its target well, beside the gap not. Of two branches: the gap."""
    rows = [
        {"model": model, "w": w, "t": t, "to_gap": likeness(0.4)}
        | {"to_target": likeness(0.9 - 0.01 * w - (t == 999) / 10) if branches == 1 else None}
        for model in ("student", "student-onnx-cpu")
        for w in (4.0, 2.0)
        for t in (None, 999, 499)
    ]
    steps = 25 if branches == 1 else 0
    response = {"base": 1.0, "prediction": "v_prediction", "num_draws": 64, "path_steps": steps, "rows": rows}
    return {**copy.deepcopy(payload), "response": response}


def read(payload: Payload) -> Record:
    return parse(json.dumps(payload))


def test_one_branch_is_judged_by_its_target_and_two_by_the_gap(payload: Payload) -> None:
    one = response_tables.response_table(read(with_responses(payload)), full=True)
    cells = dict(zip(one.headings, one.rows[0], strict=True))
    assert [row[0] for row in one.rows] == ["w=2", "w=2", "w=4", "w=4"]
    assert (cells["Cosine"], cells["ρ"], cells["Gap cosine"]) == ("0.880", "0.910", "0.400")
    assert cells["Least cosine"] == "0.780 at t 999"
    assert one.title.endswith("beside the teacher's in the same step")
    two = response_tables.response_table(read(with_responses(payload, branches=2)), full=True)
    assert dict(zip(two.headings, two.rows[0], strict=True))["Cosine"] == "0.400"
    assert "Gap cosine" not in two.headings and two.title.endswith("beside the teacher's gap, times w − 1")


def test_the_verdict_of_one_branch_is_its_response_at_the_recipes_scale(payload: Payload) -> None:
    record = read(with_responses(payload))
    assert "with a cosine of 0.880 to the teacher's change and 0.910 of its strength" in verdict.sentence(record)
    card = verdict.cards(record)[-1]
    assert card.big == "0.880" and "least at t 999: cosine 0.780" in card.lines
    for other in (with_responses(payload, branches=2), payload):
        assert "Its guidance has a cosine of" in verdict.sentence(read(other))


def test_where_guidance_changes_the_verdict_is_the_response_at_the_scale_nearest_to_its_mean(payload: Payload) -> None:
    changing = with_responses(payload)
    changing["settings"]["sampling"]["guidance"] = {"kind": "tag"}
    changing["plans"]["recipe"] |= {"guidance": "TAG 1–4", "weights": [2.5] * 20 + [4.0] * 30}
    changing["fidelity"]["guidance"] = "TAG 1–4"
    record = read(changing | {"guidance_interval": None, "pairs": []})
    assert "Guidance at w=4 changes its prediction with a cosine of 0.860" in verdict.sentence(record)
    card = verdict.cards(record)[-1]
    assert card.big == "0.860" and card.lines[0].startswith("cosine of its response to guidance at w=4 with")


def test_every_timestep_of_a_model_is_shown(payload: Payload) -> None:
    table = response_tables.response_by_timestep(read(with_responses(payload)), "student")
    assert [(row[0], row[1]) for row in table.rows] == [(f"w={w}", t) for w in (4, 2) for t in ("999", "499")]


def test_confidence_grows_or_does_not(payload: Payload) -> None:
    by_w = {"w=1": 0.9, "w=1.5": 0.95, "w=2": 0.948, "w=3": 0.96, "w=4": 0.97}
    for row in payload["quality"]["rows"]:
        row["confidence"] = by_w.get(row["guidance"])
        if row["model"] == "student" and row["guidance"] == "w=3":
            row["confidence"] = 0.93
    table = response_tables.confidence_table(read(payload))
    assert table.headings == ("Model", "w=1", "w=1.5", "w=2", "w=3", "w=4", "Gain (points)", "Grows with w")
    assert [(row[0], row[-2], row[-1]) for row in table.rows[:2]] == [
        ("teacher (torch)", "7.0", "yes"),
        ("student (torch)", "7.0", "no"),
    ]


def test_a_record_from_before_responses_and_distances_is_read_and_has_no_table_of_them(payload: Payload) -> None:
    del payload["response"]
    for row in (*payload["quality"]["rows"], *payload["guidance_interval"]["quality"]):
        for figures in (row, *row["by_seed"]):
            for name in ("pixel_distance", "feature_distance", "confidence"):
                figures.pop(name, None)  # the study shares a row with the others
    record = read(payload)
    assert response_tables.response_table(record).rows == response_tables.confidence_table(record).rows == ()
    assert "Pixels to teacher" not in tables.quality_table(record, full=True).headings
    assert "Response to guidance" not in markdown_results(record)
    assert json.loads(dumps(record))["response"] is None


def test_markdown_holds_the_response(payload: Payload) -> None:
    for text in (markdown_results(read(with_responses(payload))), markdown_overview(read(with_responses(payload)))):
        assert "**Response to guidance, f(w) − f(1), beside the teacher's in the same step**" in text


def test_responses_of_unknown_models_are_refused(payload: Payload) -> None:
    payload = with_responses(payload)
    payload["response"]["rows"][0]["model"] = "student-lost"
    with pytest.raises(UserError, match="models lacks 'student-lost'"):
        read(payload)


def test_diff_holds_the_response_of_one_branch_to_the_gaps_limit(payload: Payload) -> None:
    before, after = with_responses(payload), with_responses(payload)
    for row in after["response"]["rows"]:
        if (row["model"], row["w"], row["t"]) == ("student-onnx-cpu", 4.0, None):
            row["to_target"]["relative_error"] += 0.03
    found = compare(read(before), read(after), Limits(), names=("A", "B"))
    (worse,) = found.regressions
    assert (worse.figure, worse.model, worse.at) == ("response: relative error", "student-onnx-cpu", "w=4")
    assert compare(read(before), read(before), Limits(), names=("A", "B")).regressions == []
    # The gap is no measure of it: it may grow as it will.
    grown = copy.deepcopy(before)
    for row in grown["fidelity"]["rows"]:
        row["overall"]["relative_error"] += 0.5
    assert compare(read(before), read(grown), Limits(), names=("A", "B")).regressions == []
    for one in (before, grown):
        one["response"]["rows"] = [row for row in one["response"]["rows"] if row["model"] == "student"]
    gaps = compare(read(before), read(grown), Limits(), names=("A", "B")).regressions
    assert [(one.figure, one.model) for one in gaps] == [("relative error", "student-onnx-cpu")]
    before = with_responses(payload)
    after["response"]["num_draws"] = 65
    other = compare(read(before), read(after), Limits(), names=("A", "B"))
    assert other.regressions == []
    assert "The response to guidance is not compared: draws: 64 and 65." in other.notes
