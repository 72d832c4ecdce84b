"""The distill stage: train a compact student from a teacher and write it in diffusers format."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from dashdeploy import stages
from dashdeploy.data import load_dataset
from dashdeploy.data.images import LabelledImages
from dashdeploy.recipe import schema
from dashdeploy.students.architecture import StudentDesign, design
from dashdeploy.teachers import choose, networks
from dashdeploy.terminal import say
from dashdeploy.training import ranks
from dashdeploy.training.accelerator import make_accelerator
from dashdeploy.training.bank import banked
from dashdeploy.training.loop import train
from dashdeploy.training.student import live_source, student_step
from dashdeploy.training.timestep_weights import transfer
from dashdeploy.training.work import ready, working, write


def distill(
    recipe: schema.Recipe,
    run_folder: Path,
    *,
    fresh: bool = False,
    banks: Path | None = None,
) -> stages.Stage:
    """Train the recipe's student into run_folder/student, or return it if it is already there.

    Args:
        banks: a folder where banks of teacher outputs stay, for other students of the same teacher, data and seed.
            None: the bank goes with the work folder.

    Raises:
        UserError: no teacher, or one that does not fit (see `choose.check`); another student is finished there, and
            `fresh` is not given; a training error (see training.loop.train).
    """
    config, folder = recipe.distill, run_folder / "student"
    teacher_folder = choose.find(recipe, run_folder)
    if teacher_folder is None:
        raise choose.not_trained(recipe)
    data = load_dataset(recipe.data)
    teacher = choose.open_teacher(teacher_folder, recipe, data)
    schedule = teacher.denoiser.interface.schedule
    weights = transfer(config.timestep_weights, schedule, teacher_folder)
    student = design(recipe.student, networks.config_of(teacher.denoiser.unet))
    shared, inputs = inputs_of(data, teacher, student)
    key = stages.stage_key("student", recipe, inputs)
    look = partial(ready, folder, "student", key=key, recipe=recipe, inputs=inputs, fresh=fresh)
    if done := look():
        return done
    accelerator = make_accelerator(config, work=stages.work_path(folder))
    teacher.denoiser.to(accelerator.device)
    if told := ranks.in_main(partial(choose.check, teacher, recipe, data)):
        say(f"teacher   {told}")
    with working(folder, key=key, fresh=fresh) as work:
        if done := look():  # another process may have finished it before this one had the lock
            return done
        # Prepare.
        live = live_source(recipe, data, teacher.denoiser)
        wants_bank = config.teacher_bank > 0 and config.objective.needs_teacher
        source = banked(recipe, live, shared, folder=banks or work, accelerator=accelerator) if wants_bank else live
        module = student_step(recipe, student, teacher.denoiser, weights, data)
        # Train.
        figures = train(
            module,
            source,
            config,
            recipe=recipe,
            accelerator=accelerator,
            folder=work,
            key=key,
            title=f"student {recipe.name}",
        )

        # Write.
        def contents(draft: stages.Draft) -> None:
            clip_sample = recipe.sampling.clip_sample
            networks.save(module.denoiser.unet, schedule, draft.folder, clip_sample=clip_sample)
            draft.figures.update(student.describe(), init=recipe.student.init.model_dump(mode="json"))
            draft.figures.update(teacher=str(teacher_folder.absolute()), classes=list(data.classes))

        write(folder, work, module, figures, key=key, recipe=recipe, inputs=inputs, contents=contents)
    return stages.read_stage(folder)


def inputs_of(
    data: LabelledImages, teacher: choose.Teacher, student: StudentDesign
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a bank, and what the student, depend on beside the recipe's fields."""
    shared = {"data": data.sha256, "horizontal_flip": data.horizontal_flip, "teacher": teacher.sha256}
    return shared, {**shared, "student": student.config}
