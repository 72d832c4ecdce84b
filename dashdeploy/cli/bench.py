"""`dashdeploy bench RUN`: measure a run's student and artifacts against its teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dashdeploy.cli.options import Fresh, Overrides
from dashdeploy.cli.output import Result


def bench(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, as in runs/digits.")],
    *,
    features: Annotated[
        str | None, typer.Option("--features", help="Feature network of FID and KID: auto, fit, inception or none.")
    ] = None,
    weights: Annotated[
        Path | None, typer.Option("--weights", metavar="FILE", help="Weights file of --features inception.")
    ] = None,
    overrides: Overrides = None,
    fresh: Fresh = False,
) -> Result:
    """Measure latency, quality over guidance, and guidance fidelity: bench.json, tables, and report.html.

    dashdeploy diff A B compares two such records.
    """
    from dashdeploy.bench.bench import bench as bench_stage
    from dashdeploy.cli.job import recipe_of_student
    from dashdeploy.errors import UserError
    from dashdeploy.preflight.examine import require
    from dashdeploy.recipe.load import load_text, resolved_yaml
    from dashdeploy.show.look import look

    recipe = recipe_of_student(run_folder)
    changes = list(overrides or ())
    changes += [f"bench.quality.features={features}"] if features else []
    changes += [f"bench.quality.features_weights={weights}"] if weights else []
    changed = load_text(resolved_yaml(recipe), name=str(run_folder), overrides=changes)
    kept = {"bench", "sampling"}
    if changed.model_dump(exclude=kept) != recipe.model_dump(exclude=kept):
        raise UserError("bench: --set can change the bench and sampling sections only; the rest made the student")
    if weights and (chosen := changed.bench.quality.features) != "inception":
        raise UserError(
            f"bench: --weights is for --features inception, and the features are {chosen}. Give both, or none."
        )
    require(changed, run_folder, wanted=("bench",), fresh=fresh)
    stage = bench_stage(run_folder, changed, fresh=fresh)
    view = look(stage.folder)
    return Result(view.data, view.print)
