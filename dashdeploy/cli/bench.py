"""`dashdeploy bench RUN`: measure a run's student and artifacts against its teacher; of several runs, their front."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dashdeploy.cli.options import Fresh, Overrides
from dashdeploy.cli.output import Result

MOST_NAMES = 3
"""So many runs give a front's folder its name."""


def bench(
    run_folders: Annotated[
        list[Path], typer.Argument(metavar="RUN", help="A run folder, as in runs/digits; or several, for a front.")
    ],
    *,
    features: Annotated[
        str | None, typer.Option("--features", help="Feature network of FID and KID: auto, fit, inception or none.")
    ] = None,
    weights: Annotated[
        Path | None, typer.Option("--weights", metavar="FILE", help="Weights file of --features inception.")
    ] = None,
    overrides: Overrides = None,
    fresh: Fresh = False,
    batch_size: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Several runs: batch of the times. Default: 64.")
    ] = None,
    guidance: Annotated[
        str | None,
        typer.Option(metavar="W", help="Several runs: the FID's guidance scale. Default: the recipe's."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="DIR", help="Several runs: folder of the files. Default: front-<names>."
        ),
    ] = None,
) -> Result:
    """Measure latency, quality over guidance, and guidance fidelity: bench.json, tables, and report.html.

    Of several runs: read their finished records, and write the front of quality against latency of all their models,
    front.json, front.md and front.svg, beside the first run.

    dashdeploy diff A B compares two such records.
    """
    from dashdeploy.errors import UserError

    measuring = {"--features": features, "--weights": weights, "--set": overrides, "--fresh": fresh}
    drawing = {"--batch-size": batch_size, "--guidance": guidance, "--output": output}
    several = len(run_folders) > 1
    if given := [name for name, value in (measuring if several else drawing).items() if value]:
        raise UserError(
            f"bench: {given[0]} is for {'one run' if several else 'several runs'}, and {len(run_folders)} "
            f"{'are' if several else 'is'} given: leave it out"
        )
    if several:
        return _front(run_folders, batch_size or 64, guidance, output)
    return _measure(run_folders[0], features, weights, overrides, fresh=fresh)


def _front(run_folders: list[Path], batch_size: int, guidance: str | None, output: Path | None) -> Result:
    from dashdeploy.bench.record.front import front, read
    from dashdeploy.bench.report.front import front_table, write_front
    from dashdeploy.report.table import print_tables

    records = read(run_folders)
    found = front(records, batch_size=batch_size, guidance=guidance)
    names = [folder.resolve().name for folder in run_folders]
    name = "-".join(names) if len(names) <= MOST_NAMES else f"{names[0]}-and-{len(names) - 1}-more"
    folder = output or run_folders[0].resolve().parent / f"front-{name}"
    write_front(found, folder)

    def show() -> None:
        print_tables([front_table(found)])
        print(folder / "front.md")

    return Result(found.as_dict(), show)


def _measure(
    run_folder: Path, features: str | None, weights: Path | None, overrides: list[str] | None, *, fresh: bool
) -> Result:
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
