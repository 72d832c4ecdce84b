"""A finished benchmark on the terminal."""

from __future__ import annotations

from pathlib import Path

from dashdeploy.bench.record.record import FILE, load_record
from dashdeploy.bench.report.markdown import summary
from dashdeploy.report.table import print_tables


def show(folder: Path) -> None:
    """Print the tables of a bench folder's record, and where the report is, on stdout."""
    print_tables(summary(load_record(folder / FILE)))
    print(folder / "report.html")
