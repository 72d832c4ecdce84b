"""A record in Markdown has the cells that the terminal shows, and says where it was measured."""

from __future__ import annotations

import io
import json
from typing import Any

from rich.console import Console

from dashdeploy.bench.record.record import Record, parse
from dashdeploy.bench.report import markdown
from dashdeploy.report.table import to_rich


def test_terminal_and_markdown_show_the_same_cells(record: Record) -> None:
    output = io.StringIO()
    console = Console(file=output, width=200)
    for shown in map(to_rich, markdown.summary(record)):
        console.print(shown)
    text = markdown.markdown_results(record)
    for table in markdown.summary(record):
        for row in (table.headings, *table.rows):
            assert f"| {' | '.join(row)} |" in text
            assert any(all(cell in line for cell in row) for line in output.getvalue().splitlines()), row


def test_the_summary_holds_every_table_that_has_rows(record: Record) -> None:
    titles = [table.title.split()[0].rstrip(",:") for table in markdown.summary(record)]
    assert titles == [
        *("Overview", "Models", "Quality", "Confidence", "Guidance", "Latency", "Guidance", "Quality"),
        *("Baselines", "Recovery"),
    ]


def test_names_cannot_break_a_table(payload: dict[str, Any]) -> None:
    payload["models"]["teacher"]["label"] = "a|b <i>[red]x"
    record = parse(json.dumps(payload))
    text = markdown.markdown_results(record)
    assert "a\\|b &lt;i>[red]x" in text and "<i>" not in text
    output = io.StringIO()
    Console(file=output, width=200).print(to_rich(markdown.summary(record)[0]))
    assert "a|b <i>[red]x" in output.getvalue()


def test_markdown_says_where_and_against_what_it_was_measured(record: Record) -> None:
    text = markdown.markdown_results(record)
    for part in (
        "`digits`",
        "seed 0",
        "2026-11-23",
        "2 threads",
        "torch 2.13.0+cpu",
        "digits-cnn",
        "1000 images against 1617 real ones",
    ):
        assert part in text
    assert text.endswith(f"- {record.notes[0]}\n")


def test_tables_without_rows_are_left_out(payload: dict[str, Any]) -> None:
    payload["latency"], payload["pairs"], payload["fidelity"]["rows"], payload["baselines"] = [], [], [], None
    payload["guidance_interval"] = None
    titles = [table.title for table in markdown.summary(parse(json.dumps(payload)))]
    assert [title.split()[0].rstrip(",:") for title in titles] == ["Overview", "Models", "Quality", "Confidence"]
