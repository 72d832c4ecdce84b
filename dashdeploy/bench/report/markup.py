"""Tables and plots as pieces of an HTML page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from dashdeploy.bench.report.tables import Table


def panels(figures: Iterable[str]) -> str:
    """SVG plots side by side, one below the other where the screen is narrow."""
    # An inline SVG takes its namespaces from HTML.
    shown = (figure.replace(' xmlns="http://www.w3.org/2000/svg"', "") for figure in figures)
    shown = (figure.replace(' xmlns:xlink="http://www.w3.org/1999/xlink"', "") for figure in shown)
    return f'<div class="panels">{"".join(f"<figure>{figure}</figure>" for figure in shown)}</div>'


def plain(title: str, headings: Sequence[str], rows: tuple[tuple[str, ...], ...], *, text: int = 1) -> Table:
    """A table whose first `text` columns are text and the others numbers."""
    numeric = tuple(i >= text for i in range(len(headings)))
    return Table(title, tuple(headings), ("",) * len(headings), numeric, rows)


def titled(table: Table) -> str:
    """A table under its title."""
    return f"<h3>{escape(table.title)}</h3>{table_html(table)}"


def table_html(table: Table, *, group: int | None = None, meanings: bool = True) -> str:
    """A table that scrolls by itself where it is too wide.

    group: the column at whose change a new group of rows begins; meanings: explain the columns below.
    """

    def line(tag: str, cells: Sequence[str], *, first: bool = False) -> str:
        marked = ((' class="n"' if numeric else "", cell) for numeric, cell in zip(table.numeric, cells, strict=True))
        inner = "".join(f"<{tag}{mark}>{escape(cell)}</{tag}>" for mark, cell in marked)
        return f'<tr class="first">{inner}</tr>' if first else f"<tr>{inner}</tr>"

    key = [row[: group + 1] if group is not None else () for row in table.rows]
    rows = "".join(line("td", row, first=i > 0 and key[i] != key[i - 1]) for i, row in enumerate(table.rows))
    pairs = zip(table.headings, table.meanings, strict=True)
    explained = "".join(f"<li><b>{escape(heading)}</b>: {escape(text)}.</li>" for heading, text in pairs if text)
    shown = f'<ul class="meanings">{explained}</ul>' if meanings and explained else ""
    head = line("th", table.headings)
    return f'<div class="scroll"><table><thead>{head}</thead><tbody>{rows}</tbody></table></div>{shown}'
