"""Which teacher a recipe means: one trained in its run folder, or a ready one by path."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dashdeploy import stages
from dashdeploy.data.images import LabelledImages
from dashdeploy.diffusion import schedule as schedules
from dashdeploy.diffusion.denoiser import TorchDenoiser
from dashdeploy.errors import UserError
from dashdeploy.locate import data_root, expanded
from dashdeploy.recipe.schema import Recipe
from dashdeploy.teachers import formats, networks, rows, semantics
from dashdeploy.teachers.identity import sha256, with_rows
from dashdeploy.teachers.names import class_names


@dataclass(frozen=True)
class Teacher:
    """An opened teacher.

    Attributes:
        sha256: see `sha256`; another choice of its rows is another teacher.
        denoiser: its labels are the data's, and K is the null class.
        rows: the rows of its label embedding that these labels are.
        manifest: of a teacher that `teach` made; None: another's.
        classes: the names of these labels; (): its folder tells none.
    """

    folder: Path
    sha256: str
    denoiser: TorchDenoiser
    rows: tuple[int, ...]
    manifest: dict[str, Any] | None
    classes: tuple[str, ...] = ()

    def named(self, classes: tuple[str, ...]) -> tuple[str, ...]:
        """The names of the data's classes; where these are numbers only, those that the teacher's folder tells."""
        numbers = tuple(map(str, range(len(classes))))
        return self.classes if classes == numbers and len(self.classes) == len(classes) else classes


def find(recipe: Recipe, run_folder: Path) -> Path | None:
    """The teacher's folder: run_folder/teacher if `teach` has made it, else teacher.path, else None.

    A relative teacher.path is one of the recipes that ship, or of a recipe that was made in Python: it is looked for
    beside the shipped recipes and in the working folder.

    Raises:
        UserError: teacher.path is given and does not exist.
    """
    trained = run_folder / "teacher"
    stages.mend(run_folder)
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


def not_trained(recipe: Recipe) -> UserError:
    """The error for a recipe whose teacher is yet to be trained."""
    return UserError(
        f"recipe {recipe.name} has no trained teacher yet. Give the same recipe to `dashdeploy teach` first, or to "
        "`dashdeploy run`, which does all."
    )


def open_teacher(folder: Path, recipe: Recipe, data: LabelledImages) -> Teacher:
    """Load a teacher and check that it fits the recipe's data and noise schedule.

    Raises:
        UserError: it is damaged or has one branch; or its classes, image shape or noise schedule are not the recipe's;
            all that differ are named.
    """
    manifest = stages.read_stage(folder).manifest if stages.is_stage(folder) else None
    native = formats.load(folder, role="teacher")
    folded = manifest is not None and manifest["inputs"].get("guidance") is not None  # a package for diffusers
    if native.interface.branches == 1 or folded:
        raise UserError(
            f"teacher {folder}: it has one branch, with the guidance scale {'folded in' if folded else 'as an input'}, "
            "and a teacher has two. Give the teacher that it was distilled from; a student may begin as another by "
            "student.init: {kind: run}."
        )
    num_rows = native.interface.num_classes + 1
    taken = rows.chosen(recipe.teacher, num_rows)
    denoiser = rows.take(native, taken)
    interface = denoiser.interface
    problems = []
    if interface.num_classes != data.num_classes:
        advice = (
            "has it no null class? Then it was not trained for classifier-free guidance"
            if num_rows == data.num_classes
            else "take the data that it was trained on; data.name image_folder reads images of any kind, in one folder "
            "a class. To take some of its classes, give the row of each in teacher.labels"
        )
        problems.append(f"it has {interface.num_classes} classes and the data {data.num_classes} ({advice})")
    names = list(class_names(folder, manifest, num_rows - 1))
    if len(names) == num_rows - 1 and sorted(names) == sorted(data.classes):
        labels = [names.index(name) for name in data.classes]
        if labels != list(taken[:-1]):
            problems.append(f"its classes are in another order than the data's (set teacher.labels to {labels})")
    if interface.image_shape != data.image_shape:
        side = interface.image_shape[1:]
        # Other channels mean other data: RGB, grey or latents.
        advice = (
            f"set data.image_size to {side[0]}"
            if interface.image_shape[0] == data.image_shape[0] and side[0] == side[1]
            else "take the kind of data that it was trained on; of latents, give their autoencoder in data.vae"
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
    named = (
        tuple(names[row] for row in taken[:-1]) if len(names) == num_rows - 1 and max(taken[:-1]) < len(names) else ()
    )
    return Teacher(folder, with_rows(sha256(folder), taken, num_rows), denoiser, taken, manifest, named)


def check(teacher: Teacher, recipe: Recipe, data: LabelledImages) -> str | None:
    """Measure that a teacher's labels and null class are the data's; see `semantics`. Returns what was measured.

    None: nothing is measured, because teacher.check is false, there is one class, or `teach` has trained this teacher
    on the same data with label dropout.

    Raises:
        UserError: they are not.
    """
    taught = _was_taught(teacher.manifest, data)
    if not recipe.teacher.check or (taught and teacher.rows == tuple(range(len(teacher.rows)))):
        return None
    _, held_out = data.split(recipe.data.holdout)
    found = semantics.measure(teacher.denoiser, held_out)
    if found is None:
        return None
    semantics.refuse(found, teacher.rows, name=teacher.folder)
    return semantics.doubt(found) or str(found)


def refuse_without_null_class(recipe: Recipe) -> None:
    """Refuse to train a teacher that `check` would refuse in the end.

    Raises:
        UserError: its training drops no labels, so that nothing trains the null class.
    """
    if recipe.teach is not None and recipe.teach.label_dropout == 0 and recipe.teacher.check:
        raise UserError(
            "teach.label_dropout is 0: nothing would train the teacher's null class, and there is no guidance to "
            "distil from it. Raise it (0.1 is usual), or set teacher.check to false."
        )


def _was_taught(manifest: dict[str, Any] | None, data: LabelledImages) -> bool:
    """Whether `teach` has made a teacher on these data, with label dropout, so that its null class is one."""
    if manifest is None or manifest["stage"] != "teacher" or manifest["inputs"].get("data") != data.sha256:
        return False
    taught = manifest["recipe"].get("teach")
    return bool(taught) and taught["label_dropout"] > 0


def config_of(folder: Path, recipe: Recipe) -> dict[str, Any]:
    """The configuration of a teacher's network as the recipe takes it: with the rows of its classes and the null class.

    Raises:
        UserError: it is missing or not one, or a row that the recipe names is not there.
    """
    config = formats.config_of(folder, role="teacher")
    networks.on_meta(config, source=f"teacher {folder}")
    num_rows = rows.number(config)
    return config | (rows.configured(config, rows.chosen(recipe.teacher, num_rows)) if num_rows else {})
