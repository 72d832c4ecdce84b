"""Comparing two records: what is past a limit, what the intervals tell apart, what cannot be compared."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dashdeploy.bench.record.diff import Change, Diff, Limits, compare, difference_interval, find, ratio_interval
from dashdeploy.bench.record.parts import Estimate
from dashdeploy.bench.record.record import parse
from dashdeploy.bench.report.diff_tables import diff_tables, summary, verdict
from dashdeploy.errors import UserError

Payload = dict[str, Any]


def diff(a: Payload, b: Payload, limits: Limits | None = None, *, only_beyond: bool = False) -> Diff:
    first, second = (parse(json.dumps(p)) for p in (a, b))
    return compare(first, second, limits or Limits(), names=("A", "B"), only_beyond=only_beyond)


def slower(payload: Payload, factor: float, model: str = "student-onnx-cpu") -> Payload:
    other = copy.deepcopy(payload)
    for row in other["latency"]:
        if row["model"] == model:
            row |= {k: v * factor for k, v in row.items() if k.endswith("_ms") and v is not None}
    other["pairs"] = []
    return other


def change(compared: Diff, figure: str, model: str, at: str = "") -> Change:
    (one,) = [c for c in compared.changes if (c.figure, c.model) == (figure, model) and at in c.at]
    return one


def test_a_record_against_itself_has_no_regression(payload: Payload) -> None:
    compared = diff(payload, payload)
    assert compared.regressions == [] and compared.notes == []
    assert {c.group for c in compared.changes} == {"latency", "quality", "guidance gap", "size and memory"}
    assert {verdict(c) for c in compared.changes} == {"same"}
    assert not any(c.beyond for c in compared.changes)
    assert summary(compared) == "no regression past a limit"


def test_a_median_past_the_limit_is_a_regression_with_its_interval(payload: Payload) -> None:
    compared = diff(payload, slower(payload, 1.3))
    assert {c.model for c in compared.regressions} == {"student-onnx-cpu"}
    assert {c.figure for c in compared.regressions} == {"p50 (ms)"} and len(compared.regressions) == 6
    one = change(compared, "p50 (ms)", "student-onnx-cpu", "step, batch 8,")
    assert one.change == pytest.approx(1.3) and one.limit == 1.10 and one.beyond and one.worse
    # Both medians are known to 2 %: √2 · 2 % for their ratio.
    assert (one.low, one.high) == (pytest.approx(1.3 * 0.972, abs=2e-3), pytest.approx(1.3 * 1.029, abs=2e-3))
    assert "REGRESSION, beyond the intervals" in {verdict(c) for c in compared.regressions}


def test_a_slowdown_below_the_limit_is_told_and_is_no_regression(payload: Payload) -> None:
    compared = diff(payload, slower(payload, 1.06))
    assert compared.regressions == []
    one = change(compared, "p50 (ms)", "student-onnx-cpu", "50 steps, batch 1,")
    assert verdict(one) == "worse, beyond the intervals"
    assert diff(payload, slower(payload, 1.06), Limits(max_slowdown=1.05)).regressions


def test_faster_is_better(payload: Payload) -> None:
    compared = diff(payload, slower(payload, 0.5))
    assert compared.regressions == []
    assert verdict(change(compared, "p50 (ms)", "student-onnx-cpu", "step, batch 8,")) == "better, beyond the intervals"


def test_the_sampler_at_the_guidance_interval_is_compared_too(payload: Payload) -> None:
    other = copy.deepcopy(payload)
    for row in other["guidance_interval"]["latency"]:
        if row["plan"] == "interval":
            row["p50_ms"] *= 2
    regressions = diff(payload, other).regressions
    assert len(regressions) == 3 and all("w=2 in 0.2–0.8" in c.at for c in regressions)
    other["plans"]["interval"]["guidance"] = "w=2 in 0.1–0.8"
    compared = diff(payload, other)
    assert compared.regressions == [] and sum("another plan" in note for note in compared.notes) == 3


def worse_fid(payload: Payload, factor: float) -> Payload:
    other = copy.deepcopy(payload)
    for row in other["quality"]["rows"]:
        if (row["model"], row["guidance"]) == ("student-onnx-cpu", "w=2"):
            row["fid"] = {k: v * factor for k, v in row["fid"].items()}
    return other


def test_an_increase_of_fid_past_the_limit_is_a_regression(payload: Payload) -> None:
    compared = diff(payload, worse_fid(payload, 1.2))
    assert [(c.figure, c.model, c.at) for c in compared.regressions] == [("FID", "student-onnx-cpu", "w=2")]
    assert compared.regressions[0].beyond
    assert diff(payload, worse_fid(payload, 1.2), Limits(max_fid_increase=0.25)).regressions == []


def test_only_beyond_spares_what_the_intervals_do_not_tell_apart(payload: Payload) -> None:
    other = worse_fid(payload, 1.07)
    (one,) = diff(payload, other).regressions
    assert one.beyond is False and verdict(one) == "REGRESSION, within the intervals"
    assert diff(payload, other, only_beyond=True).regressions == []
    assert diff(payload, worse_fid(payload, 1.2), only_beyond=True).regressions
    for row in other["quality"]["rows"]:
        row["fid"].update(low=None, high=None)
    (unknown,) = diff(payload, other, only_beyond=True).regressions
    assert unknown.beyond is None


@pytest.mark.parametrize("part", ["gap", "memory", "size"])
def test_gap_memory_and_size_each_have_a_limit(payload: Payload, part: str) -> None:
    other = copy.deepcopy(payload)
    if part == "gap":
        other["fidelity"]["rows"][1]["overall"]["relative_error"] += 0.03
        limits, figure = Limits(max_gap_error_increase=0.04), "relative error"
    elif part == "memory":
        other["models"]["student-onnx-cpu"]["peak_rss_mib"] *= 1.2
        limits, figure = Limits(max_memory_increase=0.3), "peak memory (MiB)"
    else:
        other["models"]["student-onnx-cpu"]["artifact_bytes"] *= 2
        limits, figure = Limits(max_size_increase=1.1), "all graphs (bytes)"
    assert [(c.figure, c.model) for c in diff(payload, other).regressions] == [(figure, "student-onnx-cpu")]
    assert diff(payload, other, limits).regressions == []


def test_a_figure_that_is_missing_in_the_second_is_a_regression(payload: Payload) -> None:
    other = copy.deepcopy(payload)
    other["quality"]["rows"][0]["fid"] = dict.fromkeys(("value", "low", "high"))
    (one,) = diff(payload, other).regressions
    assert verdict(one) == "REGRESSION, missing in B" and one.model == "teacher"
    assert diff(other, payload).regressions == []


def test_the_intervals_of_a_change_hold_the_truth_as_often_as_they_say() -> None:
    generator = np.random.default_rng(0)
    hits = []
    for _ in range(2000):
        x, y = generator.normal(10, 1), generator.normal(13, 2)
        a, b = (Estimate(value=v, low=v - 1.96 * s, high=v + 1.96 * s) for v, s in ((x, 1), (y, 2)))
        low, high = difference_interval(a, b)
        ratio = ratio_interval(a, b)
        hits.append((low <= 3 <= high, ratio[0] <= 1.3 <= ratio[1]))
    assert np.mean(hits, axis=0) == pytest.approx([0.95, 0.95], abs=0.015)


def test_figures_that_are_not_positive_have_no_interval_of_their_ratio() -> None:
    fine, zero = Estimate(value=1, low=0.9, high=1.1), Estimate(value=1, low=0.0, high=1.1)
    assert all(math.isnan(v) for v in ratio_interval(fine, zero))


def obstacle(change: Callable[[Payload], None], payload: Payload) -> str:
    other = copy.deepcopy(payload)
    change(other)
    with pytest.raises(UserError) as caught:
        diff(payload, other)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def other_steps(p: Payload) -> None:
    p["plans"]["recipe"] |= {"timesteps": [999, 499], "weights": [2.0, 2.0]}
    p["pairs"] = []


def fewer_batches(p: Payload) -> None:
    p["latency"] = [row for row in p["latency"] if row["batch_size"] != 8]
    p["pairs"] = []


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda p: p.update(recipe="cifar"), "recipe (digits and cifar)"),
        (other_steps, "steps (50 and 2)"),
        (lambda p: p["plans"]["recipe"].update(guidance="w=3"), "guidance (w=2 and w=3)"),
        (lambda p: p["quality"].update(num_images=500), "number of images (1000 and 500)"),
        (lambda p: p["quality"].update(num_reference=500), "number of real images (1617 and 500)"),
        (lambda p: p["quality"]["features"].update(sha256="7" * 64), "feature network (digits-cnn 999999999999 and"),
        (lambda p: p.update(threads=4), "threads (2 and 4)"),
        (fewer_batches, "batch sizes (the second lacks 8)"),
    ],
)
def test_records_that_cannot_be_compared_name_what_differs(
    payload: Payload, change: Callable[[Payload], None], named: str
) -> None:
    assert named in obstacle(change, payload)


def test_images_and_the_statistics_beside_them_are_different_references(payload: Payload) -> None:
    payload["quality"]["reference"] = {"file": "x.npz", "sha256": "3" * 64, "is_images": True}  # of an older version
    said = obstacle(lambda p: p["quality"]["reference"].update(published=True), payload)
    assert "file of real images (SHA-256 333333333333… and the statistics of SHA-256 333333333333…)" in said


def test_all_that_differs_is_named_at_once(payload: Payload) -> None:
    said = obstacle(lambda p: (p.update(recipe="x", threads=1), p["quality"].update(num_images=2)), payload)  # type: ignore[func-returns-value]
    assert all(part in said for part in ("recipe", "threads", "number of images"))


def test_another_machine_refuses_times_and_memory_and_compares_quality(payload: Payload) -> None:
    other = worse_fid(slower(payload, 3), 1.2)
    other["machine"]["cpu"], other["threads"] = "another", 8
    compared = diff(payload, other)
    assert {c.group for c in compared.changes} == {"quality", "guidance gap", "size and memory"}
    assert [c.figure for c in compared.regressions] == ["FID"]
    assert not any("memory (" in c.figure for c in compared.changes)
    assert any("another machine" in note and "latency" in note for note in compared.notes)


def test_another_kernel_is_the_same_machine(payload: Payload) -> None:
    other = copy.deepcopy(payload)
    other["machine"]["platform"] = "Linux-6.2"
    assert any(c.group == "latency" for c in diff(payload, other).changes)


def test_models_versions_and_teachers_that_differ_are_noted(payload: Payload) -> None:
    other = copy.deepcopy(payload)
    other["versions"]["torch"] = "2.14.0"
    other["models"]["teacher"]["sha256"] = "f" * 64
    other["models"]["student-new"] = other["models"]["student"]
    compared = diff(payload, other)
    assert compared.notes == [
        "Only the second has student-new.",
        "Versions differ: torch 2.13.0+cpu → 2.14.0.",
        "Guidance fidelity is not compared: the teachers differ.",
    ]


@pytest.mark.parametrize("name", ["max_slowdown", "max_fid_increase"])
@pytest.mark.parametrize("value", [math.nan, -0.1, math.inf])
def test_limits_that_would_pass_everything_are_refused(name: str, value: float) -> None:
    with pytest.raises(UserError, match=f"--{name.replace('_', '-')} is"):
        Limits(**{name: value})


def test_a_path_is_a_file_a_bench_folder_or_a_run_folder(
    write_folder: Callable[[Payload], Path], payload: Payload, tmp_path: Path
) -> None:
    folder = write_folder(payload)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "bench").symlink_to(folder)
    assert find(folder) == find(folder / "bench.json") == find(tmp_path / "run")
    with pytest.raises(UserError, match="no such file or folder"):
        find(tmp_path / "none")


def test_tables_and_json_hold_every_change(payload: Payload) -> None:
    compared = diff(payload, slower(payload, 1.3))
    tables = diff_tables(compared)
    assert sum(len(table.rows) for table in tables) == len(compared.changes)
    cells = [row for row in tables[0].rows if row[1] == "student-onnx-cpu" and row[2] == "step, batch 8, batched"]
    assert cells[0][3:7] == ("3.40", "4.42", "1.300× [1.264×, 1.337×]", "≤ 1.100×")
    plain = json.loads(json.dumps(compared.as_dict(), allow_nan=False))
    assert plain["regressions"] == 6 and len(plain["changes"]) == len(compared.changes)
