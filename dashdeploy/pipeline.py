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
from dashdeploy.training import ranks
from dashdeploy.training.distill import distill
from dashdeploy.training.student import describe_student
from dashdeploy.training.teach import key_of, teach


def run_all(
    recipe: Recipe,
    run_folder: Path,
    *,
    fresh: bool = False,
    banks: Path | None = None,
    say: Callable[[str], None],
) -> stages.Stage:
    """Carry out all four stages and return the last.

    Of several processes of one launch all train, and the main one alone exports, measures and says how far it is.

    Args:
        banks: see `distill`.
        fresh: make every stage again but the teacher, which `dashdeploy teach --fresh` does.
        say: called with a line as each stage ends.

    Raises:
        UserError: a stage fails, or a teacher or student would replace another: see `teach` and `distill`.
    """
    say = say if ranks.state().is_main_process else lambda line: None
    check_measurable(recipe)
    if recipe.teacher.path is None:
        teach(recipe, run_folder)
    say(f"teacher   {choose.find(recipe, run_folder)}")
    student = distill(recipe, run_folder, fresh=fresh, banks=banks)
    size = f"{student.figures['parameters']:,} parameters, {student.figures['compression']:.1f}× smaller"
    say(f"student   {student.folder}  {size}")

    def deploy() -> stages.Stage:
        for name in recipe.export:
            made = carry_out(run_folder, schema.load(name), sampling=recipe.sampling, fresh=fresh)
            say(f"artifact  {summary(made)}")
        measured = bench(run_folder, recipe, fresh=fresh)
        say(f"report    {measured.folder / 'report.html'}")
        return measured

    return ranks.in_main(deploy)


def describe(recipe: Recipe, run_folder: Path) -> list[str]:
    """What `run_all` would do, one line a stage; nothing is written."""
    config, teacher = recipe.distill, _teacher_at_hand(recipe, run_folder)
    if teacher is not None:
        lines = [f"teach    not needed: the teacher is {teacher}"]
    else:
        assert recipe.teach is not None
        size = f"{recipe.teach.steps} steps of {recipe.teach.batch_size} images"
        lines = [f"teach    {size} into {run_folder / 'teacher'}"]
    lines.append(
        f"distill  {config.objective.kind}, {config.steps} steps of {config.batch_size} images into "
        f"{run_folder / 'student'}: {describe_student(recipe, teacher)}"
    )
    for name in recipe.export:
        target = schema.load(name)
        lines.append(f"export   {target.description} into {run_folder / place(target) / target.name}")
    quality, sizes = recipe.bench.quality, recipe.bench.latency.batch_sizes
    timed = f"latency at batch {', '.join(map(str, sizes))}; " if sizes else ""
    lines.append(
        f"bench    {timed}quality of "
        f"{quality.num_images} images at {len(quality.guidance)} guidances into {run_folder / 'bench'}"
    )
    return lines


def _teacher_at_hand(recipe: Recipe, run_folder: Path) -> Path | None:
    """The folder of the teacher that `run_all` would take as it is; None: it would train one."""
    teacher = choose.find(recipe, run_folder)
    if teacher is None or recipe.teacher.path is not None:
        return teacher
    return teacher if stages.current(teacher, key_of(recipe)) else None
