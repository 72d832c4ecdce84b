"""The distill stage: train a compact student from a teacher and write it in diffusers format."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from dashdeploy import autoencoder, ranks, stages
from dashdeploy.data import load_dataset
from dashdeploy.data.encode import autoencoder_of, vae_sha256
from dashdeploy.data.images import LabelledImages
from dashdeploy.objectives.distribution_matching import DistributionMatching
from dashdeploy.recipe import schema
from dashdeploy.students import finished
from dashdeploy.students.architecture import StudentDesign, design
from dashdeploy.teachers import choose, networks
from dashdeploy.terminal import say
from dashdeploy.training.accelerator import make_accelerator
from dashdeploy.training.phases import train_phases
from dashdeploy.training.student import own_keys, student_prediction, student_step
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
    own = own_keys(recipe, schedule.num_train_timesteps)
    student = design(recipe.student, networks.config_of(teacher.denoiser.unet), own)
    prediction = student_prediction(recipe, teacher.denoiser)
    shared, inputs = inputs_of(recipe, data, teacher, student)
    key = stages.stage_key("student", recipe, inputs)
    look = partial(ready, folder, "student", key=key, recipe=recipe, inputs=inputs, fresh=fresh)
    if done := look():
        return done
    vae = autoencoder_of(recipe.data, data)
    matches = isinstance(config.objective, DistributionMatching)
    accelerator = make_accelerator(config, work=stages.work_path(folder), by_turns=matches)
    teacher.denoiser.to(accelerator.device)
    if told := ranks.in_main(partial(choose.check, teacher, recipe, data)):
        say(f"teacher   {told}")
    with working(folder, key=key, fresh=fresh) as work:
        if done := look():  # another process may have finished it before this one had the lock
            return done
        # Train.
        module, figures = train_phases(
            recipe,
            data,
            teacher.denoiser,
            student_step(recipe, student, teacher.denoiser, weights, data),
            shared,
            accelerator=accelerator,
            banks=banks,
            work=work,
            key=key,
        )

        # Write.
        def contents(draft: stages.Draft) -> None:
            clip_sample = recipe.sampling.clip_sample
            unet = module.denoiser.unet
            networks.save(unet, schedule, draft.folder, prediction=prediction, clip_sample=clip_sample)
            if vae is not None:
                vae.save(draft.folder / autoencoder.FOLDER)
            draft.figures.update(student.describe(), init=recipe.student.init.model_dump(mode="json"))
            draft.figures.update(teacher=str(teacher_folder.absolute()), classes=list(teacher.named(data.classes)))

        write(folder, work, module, figures, key=key, recipe=recipe, inputs=inputs, contents=contents)
    return stages.read_stage(folder)


def inputs_of(
    recipe: schema.Recipe, data: LabelledImages, teacher: choose.Teacher, student: StudentDesign
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a bank, and what the student, depend on beside the recipe's fields.

    Raises:
        UserError: the run that the student begins with has no finished student.
    """
    shared = {"data": data.sha256, "horizontal_flip": data.horizontal_flip, "teacher": teacher.sha256}
    began, vae = finished.sha256(recipe.student.init), vae_sha256(recipe.data)
    own = {"init": began, "vae": vae}
    return shared, {**shared, "student": student.config, **{name: value for name, value in own.items() if value}}
