"""`dashdeploy ls`: the runs in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dashdeploy.cli.options import DEFAULT_RUN_DIR
from dashdeploy.cli.output import Result


def ls(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Where runs are kept.")] = DEFAULT_RUN_DIR,
) -> Result:
    """List the runs in a folder: stages, what is stale or unfinished, the student's size, FID at the recipe's guidance.

    `dashdeploy show RUN` says more of one of them.
    """
    from dashdeploy.show.list import listing

    view = listing(run_dir)
    return Result(view.data, view.print)
