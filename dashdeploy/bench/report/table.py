"""A table as finished text, made from columns, for a rich console, Markdown and HTML alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from rich.table import Table as RichTable
from rich.text import Text

from dashdeploy.bench.record.record import Record
from dashdeploy.bench.report.cells import MISSING

Row = TypeVar("Row")


@dataclass(frozen=True)
class Column(Generic[Row]):
    """heading carries the unit; meaning is one plain line, '' where the heading says it; full: in the report only.

    optional: left out of a table where no row has it.
    """

    heading: str
    cell: Callable[[Record, Row], str]
    meaning: str = ""
    numeric: bool = True
    full: bool = False
    optional: bool = False


@dataclass(frozen=True)
class Table:
    """Finished text: what every renderer gets."""

    title: str
    headings: tuple[str, ...]
    meanings: tuple[str, ...]
    numeric: tuple[bool, ...]
    rows: tuple[tuple[str, ...], ...]


def build(record: Record, title: str, columns: Sequence[Column[Any]], rows: Iterable[Any], *, full: bool) -> Table:
    """A table of these columns; full: with those that only the report shows."""
    wanted = [column for column in columns if full or not column.full]
    every = [[column.cell(record, row) for row in rows] for column in wanted] if (rows := list(rows)) else []
    cells = {c.heading: found for c, found in zip(wanted, every, strict=False)}
    shown = [c for c in wanted if not c.optional or any(cell != MISSING for cell in cells.get(c.heading, ()))]
    return Table(
        title=title,
        headings=tuple(column.heading for column in shown),
        meanings=tuple(column.meaning for column in shown),
        numeric=tuple(column.numeric for column in shown),
        rows=tuple(tuple(cells[c.heading][i] for c in shown) for i in range(len(rows))),
    )


def to_rich(table: Table) -> RichTable:
    """For a rich console; names are taken literally, not as markup."""
    shown = RichTable(title=Text(table.title, style="bold"), title_justify="left", box=None, pad_edge=False)
    for heading, numeric in zip(table.headings, table.numeric, strict=True):
        shown.add_column(Text(heading), justify="right" if numeric else "left", no_wrap=True)
    for row in table.rows:
        shown.add_row(*map(Text, row))
    return shown


def to_markdown(table: Table) -> str:
    """A GitHub table, without its title."""
    marks = ["--:" if numeric else ":--" for numeric in table.numeric]
    lines = [[escape(cell) for cell in row] for row in (table.headings, *table.rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (lines[0], marks, *lines[1:]))


def escape(text: str) -> str:
    """Text that Markdown shows as it is: no cell breaks, no HTML."""
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())
