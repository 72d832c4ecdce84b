"""Which teacher a recipe means: one trained in its run folder, or a ready one by path."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from dashdeploy import stages
from dashdeploy.data.images import LabelledImages
from dashdeploy.diffusion import schedule as schedules
from dashdeploy.diffusion.denoiser import TorchDenoiser
from dashdeploy.errors import UserError
from dashdeploy.locate import data_root, expanded
from dashdeploy.recipe.schema import Recipe
from dashdeploy.teachers import formats
from dashdeploy.teachers.identity import sha256


@dataclass(frozen=True)
class Teacher:
    """An opened teacher: its folder, its hash (see `sha256`), and the denoiser."""

    folder: Path
    sha256: str
    denoiser: TorchDenoiser


def find(recipe: Recipe, run_folder: Path) -> Path | None:
    """The teacher's folder: run_folder/teacher if `teach` has made it, else teacher.path, else None.

    A relative teacher.path is one of the recipes that ship, or of a recipe that was made in Python: it is looked for
    beside the shipped recipes and in the working folder.

    Raises:
        UserError: teacher.path is given and does not exist.
    """
    trained = run_folder / "teacher"
    if (trained / stages.MANIFEST).is_file():
        return trained
    if recipe.teacher.path is None:
        return None
    path = expanded(recipe.teacher.path)
    if path.suffix in (".pth", ".pt", ".ckpt"):
        raise UserError(
            f"teacher.path {recipe.teacher.path!r}: a teacher is a folder in diffusers format. A checkpoint of the "
            "paper's code becomes one by `dashdeploy adopt CHECKPOINT FOLDER`."
        )
    roots = [Path()] if path.is_absolute() else [data_root("recipes"), Path.cwd()]
    for root in roots:
        if os.path.isdir(root / path):  # Path.is_dir raises for a name that is too long
            return root / path
    tried = ", ".join(str((root / path).absolute()) for root in roots)
    raise UserError(
        f"teacher.path {recipe.teacher.path!r}: no such folder (tried {tried}). Give a folder in diffusers format, "
        "or a teach section and no path."
    )


def open_teacher(folder: Path, recipe: Recipe, data: LabelledImages) -> Teacher:
    """Load a teacher and check that it fits the recipe's data and noise schedule.

    Raises:
        UserError: it is damaged, or its classes, image shape or noise schedule are not the recipe's; all that differ
            are named.
    """
    if stages.is_stage(folder):
        stages.read_stage(folder)
    denoiser = formats.load(folder, role="teacher")
    interface = denoiser.interface
    problems = []
    if interface.num_classes != data.num_classes:
        problems.append(
            f"it has {interface.num_classes} classes and the data {data.num_classes} (take the data that it was "
            "trained on; data.name image_folder reads images of any kind, in one folder a class)"
        )
    if interface.image_shape != data.image_shape:
        side = interface.image_shape[1:]
        # Other channels mean other data: RGB, grey or latents.
        advice = (
            f"set data.image_size to {side[0]}"
            if interface.image_shape[0] == data.image_shape[0] and side[0] == side[1]
            else "take the kind of data that it was trained on"
        )
        problems.append(
            f"its images are {interface.image_shape} (C, H, W) and the data's {data.image_shape} ({advice})"
        )
    if recipe.noise_schedule is not None:
        wanted = schedules.from_recipe(recipe.noise_schedule)
        if wanted.num_train_timesteps != interface.schedule.num_train_timesteps:
            problems.append(
                f"it has {interface.schedule.num_train_timesteps} timesteps and the recipe {wanted.num_train_timesteps}"
            )
        elif wanted.sha256 != interface.schedule.sha256:
            problems.append(
                "its noise schedule differs from the recipe's (leave noise_schedule out to take the teacher's)"
            )
    if problems:
        raise UserError(f"teacher {folder} does not fit: {'; '.join(problems)}.")
    return Teacher(folder, sha256(folder), denoiser)
