"""Arguments and options that several commands share, so that they are the same in all of them.

def distill(recipe: RecipeArgument = DEFAULT_RECIPE, *, overrides: Overrides = None, dry_run: DryRun = False)
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

DEFAULT_RECIPE = "digits"
DEFAULT_RUN_DIR = Path("runs")

RecipeArgument = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A name that `dashdeploy recipes ls` lists, or a YAML file.")
]
Overrides = Annotated[  # None: nothing overridden
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override one recipe key, as in distill.steps=200. Repeatable."),
]
RunDir = Annotated[
    Path, typer.Option("--run-dir", metavar="DIR", help="Where runs are kept; this one goes into DIR/<recipe name>.")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print the resolved recipe and what would be done; do nothing.")
]
# The limits are those of the same numbers in recipes (dashdeploy/fields.py), which take time to import.
MOST_THREADS = 1024
MOST_STEPS = 100_000
MOST_SIDE = 4096
LARGEST_SEED = 2**63 - 1
NoCheck = Annotated[
    bool, typer.Option("--no-check", help="Take a teacher without seeing that its labels and null class help.")
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Do the work again even if there is a finished result.")]


def finite(value: float) -> float:
    """Callback of options that are real numbers: what is not finite would pass every comparison, or none."""
    if not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a finite number.")
    return value
