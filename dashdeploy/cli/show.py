"""`dashdeploy show PATH`: what a run, an artifact, a record or a teacher is, and what comes next."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dashdeploy.cli.output import Result


def show(
    path: Annotated[
        Path,
        typer.Argument(metavar="PATH", help="A run, artifact, teacher, benchmark, comparison or .onnx file."),
    ],
    *,
    recipe: Annotated[
        str | None,
        typer.Option(
            metavar="RECIPE", help="Of a teacher: measure whether its labels are the classes of this recipe's data."
        ),
    ] = None,
) -> Result:
    """Show what lies at a path: of a run its stages, which of them are stale and why, and the next command.

    Every file that a manifest lists is checked against its SHA-256.
    """
    from dashdeploy.show.look import look

    view = look(path, recipe=recipe)
    return Result(view.data, view.print)
