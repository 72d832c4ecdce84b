"""What a benchmark is about: a run's student, its artifacts, its teacher and their data; found, and opened."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from dashdeploy import autoencoder, manifest, stages
from dashdeploy.bench.measure import models
from dashdeploy.bench.record.record import STUDENT, TEACHER
from dashdeploy.data import load_stored, pictures_of, trained_on
from dashdeploy.data.encode import vae_sha256
from dashdeploy.data.images import LabelledImages
from dashdeploy.errors import UserError
from dashdeploy.recipe.schema import Quality, Recipe
from dashdeploy.runtime.model import Model
from dashdeploy.runtime.opening import artifact_folders, stale
from dashdeploy.teachers import choose


@dataclass(frozen=True)
class Subjects:
    """A run's models, none of them opened but the teacher.

    Attributes:
        artifacts, manifests: by their keys in the record.
        data: what the student was trained on, images or latents.
        pictures: the images themselves, in the same order; where the benchmark reads no pixel of them, because a file
            is the reference, or nothing is, latents are not decoded, and one image stands in for all.
    """

    student: stages.Stage
    artifacts: dict[str, stages.Stage]
    manifests: dict[str, manifest.Manifest]
    data: LabelledImages
    pictures: LabelledImages
    teacher: choose.Teacher

    @property
    def folders(self) -> dict[str, Path]:
        """By model, the teacher first."""
        artifacts = {name: stage.folder for name, stage in self.artifacts.items()}
        return {TEACHER: self.teacher.folder, STUDENT: self.student.folder, **artifacts}


def find(run_folder: Path, recipe: Recipe) -> Subjects:
    """What there is in a run's folder.

    Raises:
        UserError: no student, other data or another autoencoder than it was trained on, or a teacher that has changed
            since.
    """
    student, artifacts = _exported(run_folder)
    _refuse_other_autoencoder(run_folder, recipe, student)
    stored = load_stored(recipe.data)
    data = trained_on(stored, recipe.data)
    _refuse_other_data(run_folder, recipe, data, student)
    return Subjects(
        student=student,
        artifacts=artifacts,
        manifests={name: manifest.read(stage) for name, stage in artifacts.items()},
        data=data,
        pictures=pictures_of(stored, recipe.data, pixels=_reads_pixels(recipe.bench.quality)),
        teacher=_teacher(run_folder, recipe, data, student),
    )


def open_subjects(subjects: Subjects, threads: int, stack: ExitStack) -> tuple[dict[str, Model], list[str]]:
    """The models, and a note on each artifact that does not run here; see `models.open_all`.

    Args:
        stack: closes the models.
    """
    opened, left_out = models.open_all(subjects.folders, threads, stack)
    # With the rows of its embedding that the recipe says, which its folder does not tell.
    own = opened[TEACHER]
    own.denoiser, own.sha256 = subjects.teacher.denoiser.to(own.device), subjects.teacher.sha256
    _decode_alike(own, opened[STUDENT], subjects.student)
    return opened, left_out


def _reads_pixels(config: Quality) -> bool:
    """Whether the recipe's own images are what samples are compared with, or what a feature network is fitted to."""
    return config.features == "fit" or (config.features != "none" and config.reference is None)


def _exported(run_folder: Path) -> tuple[stages.Stage, dict[str, stages.Stage]]:
    """The student, and its artifacts by their keys in the record."""
    stages.mend(run_folder)
    student = stages.read_stage(run_folder / "student")
    artifacts = [stages.read_stage(folder) for folder in artifact_folders(run_folder)]
    other = [a.folder.name for a in artifacts if stale(a.folder, a.manifest)]
    if other:
        again = " ".join(f"--to {name}" for name in other)
        raise UserError(
            f"{run_folder}: {', '.join(other)} was exported from another student. Run `dashdeploy export {run_folder} "
            f"{again}`, or remove the folder."
        )
    return student, {f"student-{stage.folder.name}": stage for stage in artifacts}


def _refuse_other_autoencoder(run_folder: Path, recipe: Recipe, student: stages.Stage) -> None:
    """Raises:
    UserError: data.vae is not the autoencoder that the student has, which decodes what is drawn.
    """
    own, given = student.manifest["inputs"].get("vae"), vae_sha256(recipe.data)
    if own is not None and given is not None and own != given:
        raise UserError(
            f"{run_folder}: data.vae {recipe.data.vae} (SHA-256 {given[:12]}…) is another autoencoder than the one "
            f"that decodes what the student draws, {student.folder / autoencoder.FOLDER} ({own[:12]}…). Give that one "
            "in data.vae, or distil again."
        )


def _refuse_other_data(run_folder: Path, recipe: Recipe, data: LabelledImages, student: stages.Stage) -> None:
    """Raises:
    UserError: the data are not those that the student was trained on.
    """
    trained = student.manifest["inputs"]["data"]
    if trained != data.sha256:
        where = f"{recipe.data.name}{f' at {recipe.data.path}' if recipe.data.path else ''}"
        raise UserError(
            f"{run_folder}: its student was trained on other data than {where} now holds ({len(data)} images of "
            f"{data.num_classes} classes, SHA-256 {data.sha256[:12]}…; then {trained[:12]}…). Bring back the images, "
            "labels and class names that it was trained on, or distil again."
        )


def _teacher(run_folder: Path, recipe: Recipe, data: LabelledImages, student: stages.Stage) -> choose.Teacher:
    """The teacher that the student was made from."""
    used = Path(student.figures["teacher"])
    folder = used if used.is_dir() else choose.find(recipe, run_folder)
    if folder is None:
        raise UserError(f"{run_folder}: no teacher to compare with; give teacher.path or run `dashdeploy teach`")
    teacher = choose.open_teacher(folder, recipe, data)
    if student.manifest["inputs"]["teacher"] != teacher.sha256:
        raise UserError(f"{run_folder}: its student was made from another teacher than {folder}. Distil again.")
    return teacher


def _decode_alike(teacher: Model, model: Model, student: stages.Stage) -> None:
    """Decode the teacher's latents by the student's autoencoder, which is then a part of the teacher's hash."""
    given, made = teacher.denoiser.interface, model.denoiser.interface
    teacher.decoder = model.decoder
    teacher.denoiser.interface = replace(given, latents=made.latents, decoded=made.decoded)
    if made.decoded is not None:
        teacher.sha256 = stages.digest({"teacher": teacher.sha256, "vae": student.manifest["inputs"]["vae"]})
