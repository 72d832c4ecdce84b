"""The parts that the stage commands share: the recipe, its run folder, and the dry run."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dashdeploy.recipe.schema import Recipe


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


def open_job(recipe: str, overrides: Sequence[str] | None, run_dir: Path) -> Job:
    """Load the recipe that a command names, with its --set overrides.

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
    return Job(load_recipe(recipe, overrides=overrides), run_dir)


def print_dry_run(job: Job) -> None:
    """The resolved recipe on stdout, then, as comments, what would run."""
    from dashdeploy.pipeline import describe
    from dashdeploy.recipe.load import resolved_yaml

    print(resolved_yaml(job.recipe), end="")
    print("\n# what `dashdeploy run` would do:")
    for line in describe(job.recipe, job.folder):
        print(f"#   {line}")


def warn(text: str) -> None:
    """Print a line on stderr."""
    print(text, file=sys.stderr, flush=True)
