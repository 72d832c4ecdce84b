"""The parts that the stage commands share: the recipe, its run folder, and the dry run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dashdeploy.cli.output import Result, lines

if TYPE_CHECKING:
    from dashdeploy.preflight.facts import Step
    from dashdeploy.recipe.schema import Recipe
    from dashdeploy.stages import Stage


@dataclass(frozen=True)
class Job:
    """A recipe to carry out.

    Attributes:
        run_dir: the folder of run folders; this recipe's is run_dir/<name>.
    """

    recipe: Recipe
    run_dir: Path

    @property
    def folder(self) -> Path:
        return self.run_dir / self.recipe.name

    def make_folder(self) -> Path:
        """The run folder, made and checked to be writable."""
        from dashdeploy.stages import open_run

        return open_run(self.run_dir, self.recipe.name)


def open_job(recipe: str, overrides: Sequence[str] | None, run_dir: Path, *, no_check: bool = False) -> Job:
    """Load the recipe that a command names, with its --set overrides; no_check: its teacher is taken as it is.

    Raises:
        UserError: not found, not valid, or a comparison.
    """
    from dashdeploy import locate
    from dashdeploy.errors import UserError
    from dashdeploy.recipe.comparison import is_comparison
    from dashdeploy.recipe.load import load_recipe

    path = locate.find("recipes", recipe)
    if is_comparison(path):
        raise UserError(f"{recipe}: a comparison, not a recipe. Carry it out with: dashdeploy compare {recipe}")
    changes = [*(overrides or ()), *(["teacher.check=false"] if no_check else ())]
    return Job(load_recipe(recipe, overrides=changes), run_dir)


def recipe_of_student(path: Path) -> Recipe:
    """The recipe that the student of a run folder was trained with; `path` was given to a command.

    Raises:
        UserError: it is no run folder, or its student is damaged.
    """
    from dashdeploy import stages
    from dashdeploy.recipe.load import recipe_in

    student = stages.read_stage(run_folder(path) / "student")
    return recipe_in(student.manifest, source=student.folder / stages.MANIFEST)


def run_folder(path: Path) -> Path:
    """A run folder that a command was given, refused at once where it is something else.

    Raises:
        UserError: it says what it is, and what was meant.
    """
    from dashdeploy import stages
    from dashdeploy.cli.options import DEFAULT_RUN_DIR
    from dashdeploy.errors import UserError, shown

    called = shown(path)
    if not os.path.isdir(path):
        meant = DEFAULT_RUN_DIR / path
        hint = f"Did you mean {shown(meant)}?" if os.path.isdir(meant) else "`dashdeploy ls` lists the runs."
        raise UserError(f"{called}: no such run folder. {hint}")
    if (path / stages.MANIFEST).is_file():
        parents = path.absolute().parents
        run = next((p for p in parents[:2] if (p / "student").is_dir()), None)
        of = "" if run is None else f" of the run {shown(os.path.relpath(run))}"
        raise UserError(f"{called}: a stage{of}, and a run folder is needed. Give the run folder.")
    if not (path / "student" / stages.MANIFEST).is_file():
        raise UserError(f"{called}: holds no finished student. `dashdeploy show {called}` says what comes next.")
    return path


def dry_run_of(job: Job, command: str, *, wanted: tuple[Step, ...], fresh: bool) -> Result:
    """The resolved recipe, then, as comments, what the command would do with its stages.

    Raises:
        UserError: the preflight finds problems; all of them.
    """
    from dashdeploy.pipeline import describe
    from dashdeploy.preflight.examine import require
    from dashdeploy.recipe.load import resolved_yaml

    facts = require(job.recipe, job.folder, wanted=wanted, fresh=fresh)
    plan = describe(job.recipe, job.folder, facts, wanted=wanted)
    shown = (resolved_yaml(job.recipe), f"# what `dashdeploy {command}` would do:", *(f"#   {line}" for line in plan))
    return lines({"recipe": job.recipe.model_dump(mode="json"), "plan": plan}, *shown)


def made(stage: Stage) -> Result:
    """The result of a command that makes one stage: its folder."""
    return lines({"folder": stage.folder, "sha256": stage.sha256, "figures": stage.figures}, stage.folder)
