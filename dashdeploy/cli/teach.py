"""`dashdeploy teach`: train a recipe's teacher."""

from __future__ import annotations

from dashdeploy.cli.options import DEFAULT_RECIPE, DEFAULT_RUN_DIR, DryRun, Fresh, Overrides, RecipeArgument, RunDir
from dashdeploy.cli.output import Result


def teach(
    recipe: RecipeArgument = DEFAULT_RECIPE,
    *,
    overrides: Overrides = None,
    run_dir: RunDir = DEFAULT_RUN_DIR,
    dry_run: DryRun = False,
    fresh: Fresh = False,
) -> Result:
    """Train the recipe's teacher into its run folder; `distill` takes it from there."""
    from dashdeploy.cli.job import dry_run_of, made, open_job

    job = open_job(recipe, overrides, run_dir)
    if dry_run:
        return dry_run_of(job, "teach", wanted=("teach",), fresh=fresh)
    from dashdeploy.training.teach import teach as teach_stage

    stage = teach_stage(job.recipe, job.make_folder(), fresh=fresh)
    return made(stage)
