"""The main job: teach → distill → export → bench, each stage only where its inputs have changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dashdeploy import stages
from dashdeploy.bench.bench import bench, check_measurable
from dashdeploy.packages import schema
from dashdeploy.packages.stage import carry_out, place, summary
from dashdeploy.recipe.schema import Recipe
from dashdeploy.teachers import choose
from dashdeploy.training.distill import distill, plan_student
from dashdeploy.training.teach import teach


def run_all(
    recipe: Recipe,
    run_folder: Path,
    *,
    base: Path | None,
    fresh: bool = False,
    banks: Path | None = None,
    say: Callable[[str], None],
) -> stages.Stage:
    """Carry out all four stages and return the last; `say` is told of each stage as it ends. `banks`: see `distill`."""
    check_measurable(recipe)
    teacher = choose.find(recipe, run_folder, base=base)
    if teacher is None:
        teacher = teach(recipe, run_folder, fresh=fresh).folder
    say(f"teacher   {teacher}")
    student = distill(recipe, run_folder, base=base, fresh=fresh, banks=banks)
    size = f"{student.figures['parameters']:,} parameters, {student.figures['compression']:.1f}× smaller"
    say(f"student   {student.folder}  {size}")
    for name in recipe.export:
        say(f"artifact  {summary(carry_out(run_folder, schema.load(name), fresh=fresh))}")
    measured = bench(run_folder, recipe, base=base, fresh=fresh)
    say(f"report    {measured.folder / 'report.html'}")
    return measured


def describe(recipe: Recipe, run_folder: Path, *, base: Path | None) -> list[str]:
    """What `run_all` would do, one line a stage; nothing is written."""
    teacher = choose.find(recipe, run_folder, base=base)
    lines = []
    if teacher is not None:
        lines.append(f"teach    not needed: the teacher is {teacher}")
    else:
        assert recipe.teach is not None
        lines.append(
            f"teach    {recipe.teach.steps} steps of {recipe.teach.batch_size} images into {run_folder / 'teacher'}"
        )
    config = recipe.distill
    lines.append(
        f"distill  {config.objective.kind}, {config.steps} steps of {config.batch_size} images into "
        f"{run_folder / 'student'}{plan_student(recipe, teacher)}"
    )
    lines += [
        f"export   {(what := schema.load(name)).description} into {run_folder / place(what) / what.name}"
        for name in recipe.export
    ]
    quality, sizes = recipe.bench.quality, recipe.bench.latency.batch_sizes
    timed = f"latency at batch {', '.join(map(str, sizes))}; " if sizes else ""
    lines.append(
        f"bench    {timed}quality of "
        f"{quality.num_images} images at {len(quality.guidance)} guidances into {run_folder / 'bench'}"
    )
    return lines
