"""A finished benchmark on the terminal."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from dashdeploy.bench.record import load_record
from dashdeploy.bench.tables import rich_tables

WIDTH = 124


def show(folder: Path) -> None:
    """Print the tables of folder/bench.json, and where the report is, on stdout."""
    # A narrower terminal wraps whole lines; squeezed columns would hide figures.
    console = Console(width=max(Console().width, WIDTH))
    for table in rich_tables(load_record(folder / "bench.json")):
        console.print(table)
    print(folder / "report.html")
