"""The teachers of a comparison: one for all variants that teach with the same settings, trained once and kept."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from accelerate import PartialState

from dashdeploy import stages
from dashdeploy.recipe.comparison import Comparison, recipe_of
from dashdeploy.training.teach import key_of, teach

TEACHERS = ".teachers"


def teacher_of(comparison: Comparison, variant: str, root: Path, *, more: Mapping[str, Any]) -> dict[str, Any]:
    """The change of a variant's recipe that gives it its teacher, trained first if it is not there yet.

    It lies in root/.teachers/<its key>/teacher and has the comparison's first seed, whatever the
    student's. Of several shards one trains it, and the others that need it wait. Nothing is changed for a variant that
    names a ready teacher. `more` is changed in the recipe first.
    """
    recipe = recipe_of(comparison, variant, comparison.seeds[0], more=more)
    if recipe.teacher.path is not None:
        return {}
    folder = stages.open_run(root / TEACHERS, key_of(recipe)[:16])
    state = PartialState()
    with stages.in_turn(folder / "lock", what="the teacher") if state.is_main_process else nullcontext():
        # The processes of one launch look for the teacher together, after the lock is theirs.
        state.wait_for_everyone()
        stage = teach(recipe, folder)
        state.wait_for_everyone()
    return {"teacher.path": str(stage.folder.absolute())}
