"""A table of finished text, for a rich console, Markdown and HTML alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text


@dataclass(frozen=True)
class Table:
    """Cells as text, the same for every renderer.

    Attributes:
        headings: of the columns, with their units.
        meanings: a plain line on each column; '' where the heading says it.
        numeric: whether a column holds numbers, which stand to the right.
    """

    title: str
    headings: tuple[str, ...]
    meanings: tuple[str, ...]
    numeric: tuple[bool, ...]
    rows: tuple[tuple[str, ...], ...]


def plain(
    title: str, headings: Sequence[str], rows: Iterable[Sequence[str]], *, text_columns: Sequence[int] = (0,)
) -> Table:
    """A table without meanings; the columns of `text_columns` hold text and the others numbers."""
    numeric = tuple(i not in text_columns for i in range(len(headings)))
    return Table(title, tuple(headings), ("",) * len(headings), numeric, tuple(map(tuple, rows)))


def to_rich(table: Table) -> RichTable:
    """For a rich console; names are taken literally, not as markup."""
    shown = RichTable(title=Text(table.title, style="bold"), title_justify="left", box=None, pad_edge=False)
    for heading, numeric in zip(table.headings, table.numeric, strict=True):
        shown.add_column(Text(heading), justify="right" if numeric else "left", no_wrap=True)
    for row in table.rows:
        shown.add_row(*map(Text, row))
    return shown


def print_tables(tables: Iterable[Table]) -> None:
    """On stdout, each as wide as it needs: a narrow terminal wraps whole lines; squeezed columns would hide figures."""
    for table in map(to_rich, tables):
        print_rich(table, least_width=Console(width=1000).measure(table).maximum)


def print_rich(table: RichTable, *, least_width: int) -> None:
    """Print on stdout by `print`, whose failures (nobody reads, the disk is full) are those of any other output."""
    console = Console(width=max(Console().width, least_width), highlight=False)
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().splitlines():
        print(line.rstrip())


def to_markdown(table: Table) -> str:
    """A GitHub table, without its title."""
    marks = ["--:" if numeric else ":--" for numeric in table.numeric]
    lines = [[escape(cell) for cell in row] for row in (table.headings, *table.rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (lines[0], marks, *lines[1:]))


def escape(text: str) -> str:
    """Text that Markdown shows as it is: no cell breaks, no HTML."""
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())
