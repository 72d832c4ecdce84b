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
    trt: Annotated[bool, typer.Option("--trt", help="Short for --to tensorrt.")] = False,
    fresh: Fresh = False,
    as_json: AsJson = False,
) -> None:
    """Export the student for each target; an artifact is written only if it passes the target's limits.

    float32 artifacts must agree with the student in torch; others must pass the guidance gate.
    """
    import json

    from dashdeploy import run
    from dashdeploy.export.export import check_targets, summary
    from dashdeploy.export.export import export as export_stage
    from dashdeploy.target import load_target

    names = [*(to or ()), *(["tensorrt"] if trt else [])]
    names = names or run.read_stage(run_folder / "student").manifest["recipe"]["export"]
    targets = [load_target(name) for name in dict.fromkeys(names)]
    check_targets(targets)
    stages = [export_stage(run_folder, target, fresh=fresh) for target in targets]
    if as_json:
        print(json.dumps([{"artifact": str(stage.folder), **stage.figures} for stage in stages], indent=2))
        return
    for stage in stages:
        print(summary(stage))
