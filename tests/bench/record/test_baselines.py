"""Committed baselines are quoted beside a run of the same conditions only."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dashdeploy.bench.record import baselines
from dashdeploy.bench.record.record import parse

Payload = dict[str, Any]


@pytest.fixture
def alike(payload: Payload) -> Payload:
    """A record whose conditions are those of recipes/baselines/digits.json."""
    loaded = baselines.load("digits")
    assert loaded is not None
    conditions = loaded[0]["conditions"]
    payload["models"]["teacher"]["sha256"] = conditions["teacher_sha256"]
    payload["models"]["student"]["parameters"] = conditions["student_parameters"]
    payload["quality"]["features"]["sha256"] = conditions["features_sha256"]
    payload["quality"] |= {name: conditions[name] for name in ("num_images", "num_reference", "class_counts")}
    payload["images_seen"] = conditions["images_seen"]
    return payload


def test_baselines_of_the_same_conditions_are_quoted_with_the_recovery(alike: Payload) -> None:
    record = parse(json.dumps(alike))
    quoted, note = baselines.quoted(record)
    assert quoted is not None and note == ""
    assert quoted.source == "recipes/baselines/digits.json" and len(quoted.rows) >= 2
    scratch = next(row for row in quoted.rows if row.name == "digits-scratch").fid["w=1"]
    teacher, student = (baselines.fids(record, model)["w=1"] for model in ("teacher", record.deployed))
    assert quoted.recovery["w=1"] == pytest.approx((scratch - student) / (scratch - teacher))


def test_other_conditions_are_named_in_a_note(alike: Payload) -> None:
    alike["images_seen"] += 1
    alike["plans"]["recipe"]["solver"] = "dpmpp_2m"
    alike["pairs"] = []
    quoted, note = baselines.quoted(parse(json.dumps(alike)))
    assert quoted is None and "differ in images_seen, solver and are not quoted" in note


def test_a_recipe_without_baselines_has_neither(payload: Payload) -> None:
    payload["recipe"] = "cifar10-paper"
    assert baselines.quoted(parse(json.dumps(payload))) == (None, "")


def test_guidances_where_the_teacher_is_no_better_than_scratch_have_no_recovery() -> None:
    recovery = baselines.recovery({"w=1": 1.0, "w=2": 2.0}, {"w=1": 1.0, "w=2": 1.0}, {"w=1": 1.0, "w=2": 1.25})
    assert recovery == {"w=2": 0.75}
