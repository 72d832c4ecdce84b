"""What is shown of a thing: values for a program, and tables and lines for a reader."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dashdeploy.report.table import Table, print_tables


@dataclass(frozen=True)
class View:
    """data: names and values as JSON holds them, or paths. parts: what a reader sees, from the top down."""

    data: Mapping[str, Any]
    parts: tuple[Table | str, ...]

    def print(self) -> None:
        """On stdout."""
        for part in self.parts:
            if isinstance(part, str):
                print(part)
            else:
                print_tables([part])


def pairs(**values: object) -> str:
    """``name  value`` on a line each, the values below each other; what is None is left out."""
    known = {name.replace("_", " "): value for name, value in values.items() if value is not None}
    width = max(map(len, known), default=0)
    return "\n".join(f"{name:{width}}  {value}" for name, value in known.items())


def size(num_bytes: int) -> str:
    """``1.27 MB``."""
    return f"{num_bytes / 1e6:,.2f} MB" if num_bytes >= 1e5 else f"{num_bytes / 1e3:,.1f} kB"
