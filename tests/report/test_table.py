"""One table of text is the same on a console and in Markdown."""

from __future__ import annotations

import pytest

from dashdeploy.report.table import plain, print_tables, to_markdown

TABLE = plain("Speed", ("Model", "ms"), [("teacher | [red]", "1.5"), ("student <b>", "20")])


def test_text_stands_left_and_numbers_right() -> None:
    assert TABLE.numeric == (False, True)
    assert to_markdown(TABLE).splitlines()[1] == "| :-- | --: |"
    assert plain("", ("a", "b"), [], text_columns=()).numeric == (True, True)


def test_names_cannot_break_a_table_nor_become_markup() -> None:
    assert to_markdown(TABLE).splitlines()[2:] == ["| teacher \\| [red] | 1.5 |", "| student &lt;b> | 20 |"]


def test_a_narrow_console_loses_no_cell(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "10")
    wide = plain("Wide", ("Model", "ms"), [("student " * 10, "1234567")])
    print_tables([TABLE, wide])
    out = capsys.readouterr().out
    assert "teacher | [red]" in out and ("student " * 10).strip() in out and "1234567" in out and "…" not in out
