"""The front of quality against latency: which models are on it, and which records make one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dashdeploy.bench.record.front import front, front_of
from dashdeploy.bench.record.record import TEACHER, Record, parse
from dashdeploy.errors import UserError


def changed(payload: dict[str, Any], *path: str | int, value: Any) -> Record:
    content = json.loads(json.dumps(payload))
    *above, last = path
    section = content
    for step in above:
        section = section[step]
    section[last] = value
    return parse(json.dumps(content))


def test_a_model_is_on_the_front_where_no_other_is_as_fast_and_as_good(record: Record) -> None:
    found = front({"digits": record}, batch_size=64)
    # ms of 50 steps / 64; FID at w = 2: the student in torch is the best, its artifact the fastest.
    assert [(p.model, round(p.ms.value, 2), p.fid.value, p.best) for p in found.points] == [
        ("student-onnx-cpu", 12.97, pytest.approx(1.984, abs=1e-3), True),
        ("student", 21.48, pytest.approx(1.98), True),
        (TEACHER, 107.81, pytest.approx(2.01), False),
    ]
    assert front_of(record) == found
    lower = front({"digits": record}, batch_size=64, guidance="1.5")
    assert [p.best for p in lower.points] == [True, True, True] and lower.guidance == "w=1.5"
    assert lower.timed_at == ("w=2",)
    assert len(front({"digits": record}, batch_size=64, guidance="TAG 1–4").points) == 3


def test_fid_at_a_guidance_of_other_evaluations_is_no_figure_of_the_time(
    record: Record, few: dict[str, Any], payload: dict[str, Any]
) -> None:
    expected = r"digits was timed at w=2, and FID is asked for at w=1: .* of teacher \(torch\) .* another --guidance"
    with pytest.raises(UserError, match=expected):
        front({"digits": record}, batch_size=64, guidance="1")
    # Of one branch every step is one evaluation, whatever w is.
    rows = [row for row in few["latency"] if row["model"] != TEACHER]
    alone = parse(json.dumps(few | {"latency": rows, "pairs": []}))
    assert {p.evaluations for p in front({"few": alone}, batch_size=8, guidance="1").points} == {4}
    # Timed without guidance, two branches run as one.
    content = json.loads(json.dumps(payload | {"guidance_interval": None, "pairs": []}))
    content["plans"]["recipe"] |= {"guidance": "w=1", "weights": [1.0] * 50}
    content["fidelity"]["guidance"] = "w=1"
    content["latency"] = [row | {"evaluations": 50} for row in content["latency"] if row["model"] != TEACHER]
    with pytest.raises(UserError, match="digits was timed at w=1, and FID is asked for at w=2"):
        front({"digits": parse(json.dumps(content))}, batch_size=64, guidance="2")


def test_runs_of_unlike_steps_share_a_front_and_their_teacher(few: dict[str, Any], record: Record) -> None:
    found = front({"many": record, "few": parse(json.dumps(few))}, batch_size=8)
    models = {(p.run, p.model): (p.steps, p.evaluations) for p in found.points}
    # The teacher of both was sampled in the same fifty steps.
    assert models == {
        ("many", TEACHER): (50, 100),
        ("many", "student"): (50, 100),
        ("many", "student-onnx-cpu"): (50, 100),
        ("few", "student"): (4, 4),
        ("few", "student-onnx-cpu"): (4, 4),
    }


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        (("models", "teacher", "sha256"), "0" * 64, "teacher (aaaaaaaaaaaa and 000000000000)"),
        (("quality", "num_reference"), 7, "number of real images (1617 and 7)"),
        (("quality", "features", "sha256"), "0" * 64, "feature network (999999999999 and 000000000000)"),
        (("quality", "num_images"), 7, "number of images (1000 and 7)"),
        (("machine", "gpu"), "H100", "machine (gpu: none and H100)"),
        (("threads",), 1, "threads (2 and 1)"),
    ],
)
def test_records_that_differ_make_no_front(
    payload: dict[str, Any], record: Record, path: tuple[str, ...], value: Any, expected: str
) -> None:
    with pytest.raises(UserError) as refused:
        front({"a": record, "b": changed(payload, *path, value=value)}, batch_size=8)
    assert str(refused.value) == f"bench: a and b make no front: they differ in {expected}"


def test_what_a_record_lacks_is_refused(payload: dict[str, Any], record: Record) -> None:
    with pytest.raises(UserError, match="a was not timed at batch 3; it has 1, 8, 64: give --batch-size"):
        front({"a": record}, batch_size=3)
    with pytest.raises(UserError, match=r"a has no FID at w=9; it has w=1, w=1.5, .*: give --guidance"):
        front({"a": record}, batch_size=8, guidance="9")
    with pytest.raises(UserError, match=r"a is sampled at w=2 and b at w=3: .*--guidance 2"):
        front({"a": record, "b": changed(payload, "fidelity", "guidance", value="w=3")}, batch_size=8)
    bare = payload | {"latency": [], "pairs": [], "guidance_interval": None}
    assert front_of(parse(json.dumps(bare))) is None
