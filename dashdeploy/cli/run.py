"""`dashdeploy run`: all stages of a recipe."""

from __future__ import annotations

from dashdeploy.cli.options import (
    DEFAULT_RECIPE,
    DEFAULT_RUN_DIR,
    DryRun,
    Fresh,
    NoCheck,
    Overrides,
    RecipeArgument,
    RunDir,
)
from dashdeploy.cli.output import Result
from dashdeploy.terminal import say


def run(
    recipe: RecipeArgument = DEFAULT_RECIPE,
    *,
    overrides: Overrides = None,
    run_dir: RunDir = DEFAULT_RUN_DIR,
    dry_run: DryRun = False,
    fresh: Fresh = False,
    no_check: NoCheck = False,
) -> Result:
    """Teach (unless there is a teacher), distill, export, bench. Stages that are up to date are not run again."""
    from dashdeploy.cli.job import dry_run_of, open_job

    job = open_job(recipe, overrides, run_dir, no_check=no_check)
    if dry_run:
        return dry_run_of(job, "run", wanted=("teach", "distill", "export", "bench"), fresh=fresh)
    from dashdeploy.pipeline import run_all
    from dashdeploy.show.look import look
    from dashdeploy.show.run import read_run

    run_all(job.recipe, job.make_folder(), fresh=fresh, say=say)
    return Result(read_run(job.folder).as_dict(), look(job.folder / "bench").print)
