"""The main job: teach → distill → export → bench, each stage only where its inputs have changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dashdeploy import ranks, stages
from dashdeploy.bench.bench import bench
from dashdeploy.packages import schema
from dashdeploy.packages.stage import carry_out, place, summary
from dashdeploy.preflight.examine import require
from dashdeploy.preflight.facts import STEPS, Facts, Step
from dashdeploy.recipe.schema import Recipe
from dashdeploy.teachers import choose
from dashdeploy.training.distill import distill
from dashdeploy.training.student import describe_student
from dashdeploy.training.teach import teach


def run_all(
    recipe: Recipe,
    run_folder: Path,
    *,
    fresh: bool = False,
    banks: Path | None = None,
    say: Callable[[str], None],
) -> stages.Stage:
    """Carry out all four stages and return the last.

    Of several processes of one launch all train and draw images, and the main one alone exports, measures and says how
    far it is.

    Args:
        banks: see `distill`.
        fresh: make every stage again but the teacher, which `dashdeploy teach --fresh` does.
        say: called with a line as each stage ends.

    Raises:
        UserError: the preflight finds something that a stage would lack, or a stage fails.
    """
    say = say if ranks.state().is_main_process else lambda line: None
    for warning in require(recipe, run_folder, fresh=fresh).warnings:
        say(f"warning   {warning}")
    if recipe.teacher.path is None:
        teach(recipe, run_folder)
    say(f"teacher   {choose.find(recipe, run_folder)}")
    student = distill(recipe, run_folder, fresh=fresh, banks=banks)
    size = f"{student.figures['parameters']:,} parameters, {student.figures['compression']:.1f}× smaller"
    say(f"student   {student.folder}  {size}")

    def deploy() -> None:
        for name in recipe.export:
            made = carry_out(run_folder, schema.load(name), sampling=recipe.sampling, fresh=fresh)
            say(f"artifact  {summary(made)}")

    ranks.in_main(deploy)
    measured = bench(run_folder, recipe, fresh=fresh)
    say(f"report    {measured.folder / 'report.html'}")
    return measured


def describe(recipe: Recipe, run_folder: Path, facts: Facts, *, wanted: tuple[Step, ...] = STEPS) -> list[str]:
    """What would be done for the wanted steps, a line for each stage; nothing is written.

    Args:
        facts: what the preflight found, which no problem stands against.
    """
    lines = []
    if facts.teacher is not None:
        lines.append(f"teach    not needed: the teacher is {facts.teacher.folder}")
    elif recipe.teach is not None:
        size = f"{recipe.teach.steps} steps of {recipe.teach.batch_size} images"
        lines.append(_line(facts, "teach", "teacher", f"{size} into {run_folder / 'teacher'}"))
    if "distill" in wanted and facts.student is not None:
        config = recipe.distill
        training = f"{config.objective.kind}, {config.steps} steps of {config.batch_size} images"
        size = describe_student(recipe, facts.student)
        lines.append(_line(facts, "distill", "student", f"{training} into {run_folder / 'student'}: {size}"))
    for name in recipe.export if "export" in wanted else ():
        target = schema.load(name)
        stage = f"{place(target)}/{target.name}"
        lines.append(_line(facts, "export", stage, f"{target.description} into {run_folder / stage}"))
    if "bench" in wanted:
        quality, sizes = recipe.bench.quality, recipe.bench.latency.batch_sizes
        timed = f"latency at batch {', '.join(map(str, sizes))}; " if sizes else ""
        drawn = f"quality of {quality.num_images} images at {len(quality.guidance)} guidances"
        scored = "guidance fidelity, no FID" if quality.features == "none" else drawn
        lines.append(_line(facts, "bench", "bench", f"{timed}{scored} into {run_folder / 'bench'}"))
    return lines + [f"warning  {warning}" for warning in facts.warnings]


def _line(facts: Facts, verb: str, stage: str, what: str) -> str:
    """A stage's line, with whether it is finished or why it is made again."""
    reasons = facts.reasons.get(stage)
    if reasons is None:
        return f"{verb:8} {what}"
    if not reasons:
        return f"{verb:8} finished: {what}"
    more = [f"and {len(reasons) - 3} more"] if len(reasons) > 3 else []
    return f"{verb:8} again ({'; '.join([*reasons[:3], *more])}): {what}"
