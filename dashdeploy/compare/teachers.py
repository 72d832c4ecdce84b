"""The teachers of a comparison: one for all variants with the same `teach` settings, trained once and kept."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from dashdeploy import ranks, stages
from dashdeploy.errors import UserError
from dashdeploy.recipe.comparison import Comparison, recipe_of
from dashdeploy.recipe.schema import Recipe
from dashdeploy.training.teach import key_of, teach

TEACHERS = ".teachers"


def teacher_of(comparison: Comparison, variant: str, root: Path, *, more: Mapping[str, Any]) -> dict[str, Any]:
    """The change of a variant's recipe that names its teacher, which is trained first if it is not there yet.

    The teacher lies in root/.teachers/<its key>/teacher. Its seed is the comparison's first one, whatever
    the student's. If several shards need it, one trains it and the others wait. A variant that names a ready teacher
    needs no change.

    Args:
        more: changes of the recipe that come before.
    """
    recipe = recipe_of(comparison, variant, comparison.seeds[0], more=more)
    if recipe.teacher.path is not None:
        return {}
    folder = stages.open_run(root / TEACHERS, key_of(recipe)[:16])
    with ExitStack() as stack:
        ranks.in_main(lambda: stack.enter_context(stages.in_turn(folder / "lock", what="the teacher")))
        stage = teach(recipe, folder)
    return {"teacher.path": str(stage.folder.absolute())}


def kept_teacher(recipe: Recipe, root: Path) -> dict[str, Any]:
    """The change of a recipe that names its teacher, where it has been trained already; nothing is made."""
    if recipe.teacher.path is not None:
        return {}
    with suppress(UserError):  # data that cannot be read, which the preflight tells of
        key = key_of(recipe)
        folder = root / TEACHERS / key[:16] / "teacher"
        if stages.current(folder, key):
            return {"teacher.path": str(folder.absolute())}
    return {}
