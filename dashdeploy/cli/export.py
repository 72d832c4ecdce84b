"""`dashdeploy export`: turn a run's student into a deployable artifact."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dashdeploy.cli.options import AsJson, Fresh


def export(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, as in runs/digits.")],
    *,
    to: Annotated[
        list[str] | None,
        typer.Option(
            "--to", metavar="TARGET", help="Deployment target: a name in exporters/, or a YAML file. Repeatable."
        ),
    ] = None,
    fresh: Fresh = False,
    as_json: AsJson = False,
) -> None:
    """Export the student for each target; an artifact is written only if it agrees with the student in torch."""
    import json

    from dashdeploy import run
    from dashdeploy.export.export import export as export_stage
    from dashdeploy.target import load_target

    targets = to or run.read_stage(run_folder / "student").manifest["recipe"]["export"]
    stages = [export_stage(run_folder, target, fresh=fresh) for target in [load_target(name) for name in targets]]
    if as_json:
        print(json.dumps([{"artifact": str(s.folder), **s.figures["parity"]["worst"]} for s in stages], indent=2))
        return
    for stage in stages:
        worst = stage.figures["parity"]["worst"]["relative_error"]
        print(f"{stage.folder}  {stage.figures['bytes'] / 1e6:.2f} MB, parity with torch: {worst:.1e}")
