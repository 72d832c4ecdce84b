"""The disk space that a run will take."""

from __future__ import annotations

import shutil
from pathlib import Path

from dashdeploy.errors import UserError
from dashdeploy.preflight.facts import Facts, Step
from dashdeploy.recipe.schema import Recipe

CHECKPOINT_BYTES = 2 * 16
"""A parameter in two checkpoints, of which the older goes when the newer is whole: weight, average, AdamW's moments."""
GRAPHS = 4
"""Copies of a student's weights in an artifact, one a graph."""


def existing(path: Path) -> Path:
    """The path, or the nearest folder above that exists."""
    return next((p for p in (path, *path.absolute().parents) if p.exists()), Path("/"))


def refuse_full(facts: Facts, recipe: Recipe, run_folder: Path, wanted: tuple[Step, ...]) -> None:
    """Refuse a disk with less space than checkpoints, bank and samples will take, as far as that is known."""
    needed = 0
    if facts.student is not None and facts.data is not None:
        image = facts.data.images[:1].nbytes
        if "distill" in wanted and facts.to_make("student"):
            phases = len(recipe.distill.objective.phases) or 1
            needed += (CHECKPOINT_BYTES + 4 * (phases - 1)) * facts.student.parameters
            if recipe.distill.objective.fine_tunes:  # a copy of the teacher trains too
                needed += CHECKPOINT_BYTES * facts.student.teacher_parameters
            if recipe.distill.objective.needs_teacher:
                needed += phases * 16 * facts.data.images[0].size * recipe.distill.teacher_bank
        if "teach" in wanted and facts.teacher is None:
            needed += CHECKPOINT_BYTES * facts.student.teacher_parameters
        if "export" in wanted:
            needed += 4 * GRAPHS * facts.student.parameters * len(recipe.export)
        if "bench" in wanted and facts.to_make("bench"):
            quality = recipe.bench.quality
            needed += image * quality.num_images * (len(quality.guidance) + 1) * (2 + len(recipe.export))
    there = existing(run_folder)
    free = shutil.disk_usage(there).free
    if needed > free:
        raise UserError(
            f"run folder {run_folder}: checkpoints, bank and samples will take about {needed / 2**30:.1f} GiB, and "
            f"{free / 2**30:.1f} GiB are free. Free some, or choose another disk with --run-dir."
        )
