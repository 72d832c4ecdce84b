"""Tables: figures as they are quoted, and the same cells on the terminal and in Markdown."""

from __future__ import annotations

import io
import json
import math
from typing import Any

import pytest
from rich.console import Console

from dashdeploy.bench.record.parts import Interval
from dashdeploy.bench.record.record import Record, parse
from dashdeploy.bench.report import cells, tables


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (1.234, "1.23"), (15865.2, "15865"), (0.01234, "0.0123"), (-2.5, "-2.50"), (math.nan, "–")],
)
def test_numbers_keep_three_digits_and_no_exponent(value: float, text: str) -> None:
    assert cells.significant(value) == text


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (Interval(value=2.014, low=1.873, high=2.158), "2.01 [1.87, 2.16]"),
        (Interval(value=0.001, low=-0.002, high=0.012), "0.0010 [-0.0020, 0.0120]"),
        (Interval(value=2.014, low=math.nan, high=math.nan), "2.01"),
        (Interval(value=math.nan, low=math.nan, high=math.nan), "–"),
        (None, "–"),
    ],
)
def test_an_interval_shares_the_decimals_of_its_figure(found: Interval | None, text: str) -> None:
    assert cells.interval(found) == text


def test_terminal_and_markdown_show_the_same_cells(record: Record) -> None:
    output = io.StringIO()
    console = Console(file=output, width=200)
    for shown in tables.rich_tables(record):
        console.print(shown)
    markdown = tables.markdown_results(record)
    for table in tables.summary(record):
        for row in (table.headings, *table.rows):
            assert f"| {' | '.join(row)} |" in markdown
            assert any(all(cell in line for cell in row) for line in output.getvalue().splitlines()), row


def test_the_summary_holds_every_table_that_has_rows(record: Record) -> None:
    titles = [table.title.split()[0].rstrip(",:") for table in tables.summary(record)]
    assert titles == [
        *("Overview", "Models", "Quality", "Guidance", "Latency", "Guidance", "Quality"),
        *("Baselines", "Recovery"),
    ]


def test_the_overview_names_a_solver_other_than_ddim(payload: dict[str, Any]) -> None:
    assert "50 steps at batch" in tables.overview_table(parse(json.dumps(payload))).title
    for found in payload["plans"].values():
        found["solver"] = "dpmpp_2m"
    assert "50 DPM-Solver++(2M) steps at batch" in tables.overview_table(parse(json.dumps(payload))).title


def test_baselines_stand_below_the_teacher_and_the_deployed_student(record: Record) -> None:
    table = tables.baselines_table(record)
    assert [row[0] for row in table.rows[:2]] == ["teacher (torch)", "student (ONNX Runtime)"]
    assert record.baselines is not None
    assert [row[0] for row in table.rows[2:]] == [row.label for row in record.baselines.rows]
    assert all(len(row) == len(table.headings) for row in table.rows)
    recovered = tables.recovery_table(record)
    assert recovered.headings[1:] == tuple(record.baselines.recovery)


def test_the_ratio_is_the_teachers_faster_time_over_this_one(record: Record) -> None:
    table = tables.latency_table(record)
    cells = {(row[0], row[1], row[2], row[3]): row[table.headings.index("Teacher ÷ this")] for row in table.rows}
    assert cells["step", "64", "student (ONNX Runtime)", "batched"] == "8.3×"
    assert cells["step", "1", "teacher (torch)", "batched"] == "1.0×"
    assert cells["step", "1", "teacher (torch)", "two-pass"] == "0.85×"


def test_the_ratio_to_torch_is_the_same_student_in_its_faster_way(record: Record) -> None:
    table = tables.latency_table(record)
    cells = {(row[0], row[1], row[2], row[3]): row[table.headings.index("Torch ÷ this")] for row in table.rows}
    assert cells["step", "64", "student (ONNX Runtime)", "batched"] == "1.7×"
    assert cells["step", "64", "student (torch)", "two-pass"] == "0.85×"
    assert cells["step", "64", "teacher (torch)", "batched"] == "–"


def test_all_models_stand_in_one_overview_with_speed_quality_and_size(record: Record) -> None:
    table = tables.overview_table(record)
    assert [row[0] for row in table.rows] == [record.label(key) for key in record.models]
    deployed = dict(zip(table.headings, table.rows[2], strict=True))
    assert table.title == "Overview at w=2, 50 steps at batch 64"
    assert deployed["Runs as"] == "sampler" and deployed["Sampler p50 (ms)"] == "830 [813, 847]"
    assert (deployed["Teacher ÷ this"], deployed["Torch ÷ this"]) == ("8.3×", "1.7×")
    assert deployed["Precision"] == "fp32" and deployed["FID [95 %]"].startswith("1.98")


def test_a_column_that_no_row_has_is_left_out(old_payload: dict[str, Any], record: Record) -> None:
    old = parse(json.dumps(old_payload))
    assert {"Load (ms)", "All graphs (kB)"} <= set(tables.models_table(record).headings)
    assert not {"Load (ms)", "All graphs (kB)", "Precision"} & set(tables.models_table(old).headings)
    assert "p50, 95 % (ms)" not in tables.latency_table(old, full=True).headings
    assert tables.interval_table(old).rows == ()


def test_the_interval_table_shows_what_is_saved(record: Record) -> None:
    table = tables.interval_table(record)
    assert table.headings[1] == "w=2 p50 (ms)"
    assert [(row[0], row[2], row[4], row[5]) for row in table.rows] == [
        ("1", "sampler", "step", "20.0"),
        ("8", "sampler", "step", "20.0"),
        ("64", "sampler", "step", "20.0"),
    ]
    assert [row[0] for row in tables.interval_quality_table(record).rows] == ["w=2", "w=2 in 0.2–0.8"]


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


def test_names_cannot_break_a_table(payload: dict[str, Any]) -> None:
    payload["models"]["teacher"]["label"] = "a|b <i>[red]x"
    record = parse(json.dumps(payload))
    markdown = tables.markdown_results(record)
    assert "a\\|b &lt;i>[red]x" in markdown and "<i>" not in markdown
    output = io.StringIO()
    Console(file=output, width=200).print(tables.rich_tables(record)[0])
    assert "a|b <i>[red]x" in output.getvalue()


def test_markdown_says_where_and_against_what_it_was_measured(record: Record) -> None:
    text = tables.markdown_results(record)
    for part in ("`digits`", "seed 0", "2026-11-23", "2 threads", "torch 2.13.0+cpu", "digits-cnn", "1617 real images"):
        assert part in text
    assert text.endswith(f"- {record.notes[0]}\n")


def test_tables_without_rows_are_left_out(payload: dict[str, Any]) -> None:
    payload["latency"], payload["pairs"], payload["fidelity"]["rows"], payload["baselines"] = [], [], [], None
    payload["interval"] = None
    titles = [table.title for table in tables.summary(parse(json.dumps(payload)))]
    assert [title.split()[0].rstrip(",") for title in titles] == ["Overview", "Models", "Quality"]
