"""`dashdeploy distill`: train a recipe's student from its teacher."""

from __future__ import annotations

from dashdeploy.cli.options import DEFAULT_RECIPE, DEFAULT_RUN_DIR, DryRun, Fresh, Overrides, RecipeArgument, RunDir


def distill(
    recipe: RecipeArgument = DEFAULT_RECIPE,
    *,
    overrides: Overrides = None,
    run_dir: RunDir = DEFAULT_RUN_DIR,
    dry_run: DryRun = False,
    fresh: Fresh = False,
) -> None:
    """Distil the recipe's student from its teacher. Interrupted, the same command resumes it.

    On several devices: accelerate launch -m dashdeploy distill RECIPE
    """
    from dashdeploy.cli.job import open_job, print_dry_run

    job = open_job(recipe, overrides, run_dir)
    if dry_run:
        return print_dry_run(job)
    from dashdeploy.training.distill import distill as distill_stage

    stage = distill_stage(job.recipe, job.make_folder(), fresh=fresh)
    print(stage.folder)
