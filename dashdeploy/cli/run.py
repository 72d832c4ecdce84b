"""`dashdeploy run`: all stages of a recipe."""

from __future__ import annotations

from dashdeploy.cli.options import DEFAULT_RECIPE, DEFAULT_RUN_DIR, DryRun, Fresh, Overrides, RecipeArgument, RunDir


def run(
    recipe: RecipeArgument = DEFAULT_RECIPE,
    *,
    overrides: Overrides = None,
    run_dir: RunDir = DEFAULT_RUN_DIR,
    dry_run: DryRun = False,
    fresh: Fresh = False,
) -> None:
    """Teach (unless there is a teacher), distill, export, bench. Stages that are up to date are not run again."""
    from dashdeploy.cli.job import open_job, print_dry_run, warn

    job = open_job(recipe, overrides, run_dir)
    if dry_run:
        return print_dry_run(job)
    from dashdeploy.bench.report.show import show
    from dashdeploy.pipeline import run_all

    stage = run_all(job.recipe, job.make_folder(), fresh=fresh, say=warn)
    show(stage.folder)
