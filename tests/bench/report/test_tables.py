"""Tables: figures as they are quoted, and the same cells on the terminal and in Markdown."""

from __future__ import annotations

import json
from typing import Any

from dashdeploy.bench.record.record import Record, parse
from dashdeploy.bench.report import check_tables, overview, tables


def test_the_overview_names_a_solver_other_than_ddim(payload: dict[str, Any]) -> None:
    assert "50 steps at batch" in overview.overview_table(parse(json.dumps(payload))).title
    for plan in payload["plans"].values():
        plan["solver"] = "dpmpp_2m"
    assert "50 DPM-Solver++(2M) steps at batch" in overview.overview_table(parse(json.dumps(payload))).title


def test_baselines_stand_below_the_teacher_and_the_deployed_student(record: Record) -> None:
    table = tables.baselines_table(record)
    assert [row[0] for row in table.rows[:2]] == ["teacher (torch)", "student (ONNX Runtime)"]
    assert record.baselines is not None
    assert [row[0] for row in table.rows[2:]] == [row.label for row in record.baselines.rows]
    assert all(len(row) == len(table.headings) for row in table.rows)
    recovered = tables.recovery_table(record)
    assert recovered.headings[1:] == tuple(record.baselines.recovery)


def test_the_ratio_is_the_teachers_faster_time_over_this_time(record: Record) -> None:
    table = tables.latency_table(record)
    cells = {(row[0], row[1], row[2], row[3]): row[table.headings.index("Teacher ÷ this")] for row in table.rows}
    assert cells["step", "64", "student (ONNX Runtime)", "batched"] == "8.3×"
    assert cells["step", "1", "teacher (torch)", "batched"] == "1.0×"
    assert cells["step", "1", "teacher (torch)", "two-pass"] == "0.85×"


def test_the_ratio_to_torch_is_of_the_same_student_with_its_faster_branches(record: Record) -> None:
    table = tables.latency_table(record)
    cells = {(row[0], row[1], row[2], row[3]): row[table.headings.index("Torch ÷ this")] for row in table.rows}
    assert cells["step", "64", "student (ONNX Runtime)", "batched"] == "1.7×"
    assert cells["step", "64", "student (torch)", "two-pass"] == "0.85×"
    assert cells["step", "64", "teacher (torch)", "batched"] == "–"


def test_all_models_stand_in_one_overview_with_speed_quality_and_size(record: Record) -> None:
    table = overview.overview_table(record)
    assert [row[0] for row in table.rows] == [record.label(key) for key in record.models]
    deployed = dict(zip(table.headings, table.rows[2], strict=True))
    assert table.title == "Overview at w=2, 50 steps at batch 64; FID of 1000 images, 2 sampling seeds"
    assert deployed["Graph"] == "sampler" and deployed["Sampler p50 (ms)"] == "830 [813, 847]"
    assert (deployed["Teacher ÷ this"], deployed["Torch ÷ this"]) == ("8.3×", "1.7×")
    assert deployed["Precision"] == "fp32" and deployed["FID [95 %]"].startswith("1.98")


def test_a_column_that_no_row_has_is_left_out(payload: dict[str, Any], record: Record) -> None:
    for model in payload["models"].values():
        model |= {"load_ms": None, "artifact_bytes": None, "precision": None}
    for row in payload["latency"]:
        row |= {"p50_low_ms": None, "p50_high_ms": None}
    payload["guidance_interval"] = None
    sparse = parse(json.dumps(payload))
    assert {"Load (ms)", "All graphs (kB)", "Precision"} <= set(tables.models_table(record).headings)
    assert not {"Load (ms)", "All graphs (kB)", "Precision"} & set(tables.models_table(sparse).headings)
    assert "p50, 95 % (ms)" in tables.latency_table(record, full=True).headings
    assert "p50, 95 % (ms)" not in tables.latency_table(sparse, full=True).headings
    assert tables.guidance_interval_table(sparse).rows == ()


def test_the_guidance_interval_table_shows_what_is_saved(record: Record) -> None:
    table = tables.guidance_interval_table(record)
    assert table.headings[1] == "w=2 p50 (ms)"
    assert [(row[0], row[2], row[4], row[5]) for row in table.rows] == [
        ("1", "sampler", "step", "20.0 [17.7, 22.2]"),
        ("8", "sampler", "step", "20.0 [17.7, 22.2]"),
        ("64", "sampler", "step", "20.0 [17.7, 22.2]"),
    ]
    assert [row[0] for row in tables.guidance_interval_quality_table(record).rows] == ["w=2", "w=2 in 0.2–0.8"]


def test_a_difference_within_the_noise_is_none_and_the_title_says_why(payload: dict[str, Any]) -> None:
    study = payload["guidance_interval"]
    for row in study["latency"]:
        if row["batch_size"] == 1 and row["plan"] == "interval":
            row["graph"] = "sampler"
        if row["batch_size"] == 8:
            row |= {"p50_low_ms": None, "p50_high_ms": None}
    for row in payload["latency"]:
        if (row["model"], row["scope"], row["batch_size"]) == ("student", "step", 1) and row["branches"] == "batched":
            row |= {"p50_ms": 7.8, "p50_low_ms": 7.6, "p50_high_ms": 8.0}
    payload["pairs"] = [
        p | ({"ratio": 1.0, "low": 0.97, "high": 1.04, "fast_branches": "two-pass", "slow_branches": "batched"} | {
            "ratio": 7.9 / (4.1 * 1.17), "low": 0.97, "high": 1.7
        } if (p["slow"], p["fast"], p["batch_size"]) == ("teacher", "student", 1) else {})
        for p in payload["pairs"]
        if (p["slow"], p["fast"], p["batch_size"]) != ("student", "student-onnx-cpu", 1)
    ]  # fmt: skip
    record = parse(json.dumps(payload))
    table = tables.guidance_interval_table(record)
    assert [row[5] for row in table.rows] == ["none", "–", "20.0 [17.7, 22.2]"]
    assert table.title.endswith("; none: one graph ran both, or the difference is within the noise")
    table = tables.latency_table(record)
    cells = {row[:4]: row[table.headings.index("Teacher ÷ this")] for row in table.rows}
    assert cells["step", "1", "student (torch)", "batched"] == "none"
    assert table.title == "Latency, 2 threads; none: the 95 % interval of the ratio holds 1"
    assert tables.pairs_table(record).rows[0][4] == "none [0.97, 1.70]"
    assert "; none" not in overview.overview_table(record).title


def test_columns_without_figures_are_left_out(payload: dict[str, Any]) -> None:
    assert {"KID [95 %]", "Accuracy (%)"} <= set(tables.quality_table(parse(json.dumps(payload))).headings)
    assert "p99 (ms)" not in tables.latency_table(parse(json.dumps(payload))).headings, "of 20 runs"
    for row in payload["quality"]["rows"]:
        row |= {"accuracy": None, "kid": {"value": None, "low": None, "high": None}, "pixel_distance": None}
    headings = tables.quality_table(parse(json.dumps(payload))).headings
    assert headings == ("Guidance", "Model", "FID [95 %]", "FID to teacher [95 %]")
    payload["latency"][0] |= {"p99_ms": 9.0, "repeats": 100}
    assert "p99 (ms)" in tables.latency_table(parse(json.dumps(payload))).headings


def test_the_full_table_only_adds_columns(record: Record) -> None:
    for build in (tables.models_table, tables.quality_table, tables.fidelity_table, tables.latency_table):
        short, full = build(record), build(record, full=True)
        assert [heading for heading in full.headings if heading in short.headings] == list(short.headings)
        assert len(full.rows) == len(short.rows)


def test_bins_show_every_bin_of_a_model(record: Record) -> None:
    row = record.fidelity.rows[0]
    table = tables.bins_table(record, row)
    assert [cells[0] for cells in table.rows] == [f"{100 * i}–{100 * i + 99}" for i in range(10)]
    assert table.rows[3][table.headings.index("Slope")] == f"{row.bins[3].slope:.3f}"


def test_layers_of_the_network_and_of_the_finished_engine_are_counted_by_kind_and_type(payload: dict[str, Any]) -> None:
    heavy = {"matmul": {"float16": 14}}
    layers = {"source": "both", "heavy": heavy, "engine": {"gemm": {"float16": 9, "float32": 1}}}
    payload["checks"][1]["layers"]["sampler"] = layers
    assert [row[1:] for row in check_tables.layers_table(parse(json.dumps(payload))).rows] == [
        ("guided", "31 convolution int8, 2 convolution float32"),
        ("sampler", "14 matmul float16"),
        ("sampler, engine", "9 gemm float16, 1 gemm float32"),
    ]
