"""A table over a record, by its columns; and the text of the record's kinds of figure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from dashdeploy.bench.record.parts import Estimate
from dashdeploy.bench.record.record import Record
from dashdeploy.bench.record.speed import FEW_RUNS, Ratio, Saving
from dashdeploy.bench.record.times import DecodingRow, LatencyRow
from dashdeploy.report import cells
from dashdeploy.report.cells import MISSING
from dashdeploy.report.table import Table

Row = TypeVar("Row")
EVALUATIONS = "Evaluations an image"
"""The heading of how often a network runs for an image."""
NONE = "none"
"""A difference that was looked for and not seen."""


@dataclass(frozen=True)
class Column(Generic[Row]):
    """One column.

    Attributes:
        heading: with the unit.
        cell: the text of one row.
        meaning: one plain line on it; '' where the heading says it.
        full: only the report shows it.
        optional: left out of a table where no row has it.
    """

    heading: str
    cell: Callable[[Record, Row], str]
    meaning: str = ""
    numeric: bool = True
    full: bool = False
    optional: bool = False


def build(record: Record, title: str, columns: Sequence[Column[Any]], rows: Iterable[Any], *, full: bool) -> Table:
    """A table of these columns; full: with those that only the report shows."""
    rows = list(rows)
    shown = []
    for column in columns:
        texts = [column.cell(record, row) for row in rows]
        if (full or not column.full) and not (column.optional and all(text == MISSING for text in texts)):
            shown.append((column, texts))
    return Table(
        title=title,
        headings=tuple(column.heading for column, _ in shown),
        meanings=tuple(column.meaning for column, _ in shown),
        numeric=tuple(column.numeric for column, _ in shown),
        rows=tuple(tuple(texts[i] for _, texts in shown) for i in range(len(rows))),
    )


def estimate(figure: Estimate | None) -> str:
    """A figure and its confidence interval; – for None."""
    return MISSING if figure is None else cells.estimate(figure.value, figure.low, figure.high)


def median_ms(row: LatencyRow | DecodingRow | None) -> str:
    """A row's median and its confidence interval, in ms; – for None."""
    return MISSING if row is None else estimate(row.p50)


def ratio(over: Ratio, row: LatencyRow) -> str:
    """A speed-up over another row; none where its interval holds 1, – where it is refused."""
    return NONE if over.is_noise and over.slow is not row else cells.times(over.value)


def saving(share: Saving) -> str:
    """``14.7 [9.1, 20.2]``, in percent; none where no saving was seen, – where there are too few runs to say."""
    if share.none:
        return NONE if share.none != FEW_RUNS else MISSING
    return f"{cells.percent(share.value)} [{cells.percent(share.low)}, {cells.percent(share.high)}]"


def explained(table: Table, why: str) -> Table:
    """The table; if it has a cell that begins with ``none``, its title says why."""
    found = any(cell.startswith(NONE) for row in table.rows for cell in row)
    return replace(table, title=f"{table.title}; {NONE}: {why}") if found else table


def t_range(low: int, high: int) -> str:
    """The timesteps low ≤ t < high, as in ``0–99``."""
    return f"{low}–{high - 1}"
