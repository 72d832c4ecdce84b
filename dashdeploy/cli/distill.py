"""`dashdeploy distill`: train a recipe's student from its teacher."""

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


def distill(
    recipe: RecipeArgument = DEFAULT_RECIPE,
    *,
    overrides: Overrides = None,
    run_dir: RunDir = DEFAULT_RUN_DIR,
    dry_run: DryRun = False,
    fresh: Fresh = False,
    no_check: NoCheck = False,
) -> Result:
    """Distil the recipe's student from its teacher. Interrupted, the same command resumes it.

    On several GPUs: accelerate launch -m dashdeploy distill RECIPE. On CPUs: torchrun --nproc-per-node N -m …
    """
    from dashdeploy.cli.job import dry_run_of, made, open_job

    job = open_job(recipe, overrides, run_dir, no_check=no_check)
    if dry_run:
        return dry_run_of(job, "distill", wanted=("distill",), fresh=fresh)
    from dashdeploy.preflight.examine import require
    from dashdeploy.terminal import say
    from dashdeploy.training.distill import distill as distill_stage

    for warning in require(job.recipe, job.folder, wanted=("distill",), fresh=fresh).warnings:
        say(f"warning   {warning}")
    stage = distill_stage(job.recipe, job.make_folder(), fresh=fresh)
    return made(stage)
