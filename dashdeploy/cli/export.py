"""`dashdeploy export`: turn a run's student into a deployable artifact."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dashdeploy.cli.options import Fresh
from dashdeploy.cli.output import Result, lines


def export(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, as in runs/digits.")],
    *,
    to: Annotated[
        list[str] | None,
        typer.Option(
            "--to",
            metavar="TARGET",
            help="Target or package: a name in exporters/, or a YAML file. Repeatable.",
        ),
    ] = None,
    guidance: Annotated[
        str | None,
        typer.Option(
            "--guidance",
            "-w",
            metavar="W",
            help="With --to diffusers: the guidance scale that is folded into a student of one branch.",
        ),
    ] = None,
    trt: Annotated[bool, typer.Option("--trt", help="Short for --to tensorrt.")] = False,
    sign: Annotated[
        Path | None,
        typer.Option("--sign", metavar="KEY", help="Sign what is written with this secret key (dashdeploy keygen)."),
    ] = None,
    fresh: Fresh = False,
) -> Result:
    """Export the student for each target; an artifact is written only if it passes the target's limits.

    float32 artifacts must agree with the student in torch; others must pass the guidance gate. A package, as cpp and
    triton, is an artifact with all that builds or serves it. diffusers is the student as plain diffusers opens it.
    """
    from dashdeploy import signing
    from dashdeploy.cli.job import recipe_of_student
    from dashdeploy.diffusion import guidance as scales
    from dashdeploy.packages import schema
    from dashdeploy.packages.stage import carry_out, summary
    from dashdeploy.preflight.examine import require_targets

    key = signing.read_secret_key(sign) if sign is not None else None  # a wrong one is told before the work
    recipe = recipe_of_student(run_folder)
    names = [*(to or ()), *(["tensorrt"] if trt else [])] or recipe.export
    w = scales.parse(guidance) if guidance is not None else None
    require_targets(recipe, run_folder, names, fresh=fresh, guidance=w)
    targets = [schema.load(name) for name in dict.fromkeys(names)]
    written = [carry_out(run_folder, target, fresh=fresh, sign_with=key, guidance=w) for target in targets]
    made = [{"folder": stage.folder, "sha256": stage.sha256, "figures": stage.figures} for stage in written]
    return lines({"made": made}, *map(summary, written))
