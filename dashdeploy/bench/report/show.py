"""A finished benchmark on the terminal."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from dashdeploy.bench.record.record import load_record
from dashdeploy.bench.report.tables import rich_tables


def show(folder: Path) -> None:
    """Print the tables of folder/bench.json, and where the report is, on stdout."""
    print_tables(rich_tables(load_record(folder / "bench.json")))
    print(folder / "report.html")


def print_tables(tables: list[Table]) -> None:
    """On stdout, each as wide as it needs: a narrow terminal wraps whole lines; squeezed columns would hide figures."""
    for table in tables:
        wide = Console(width=1000).measure(table).maximum
        Console(width=max(Console().width, wide)).print(table)
