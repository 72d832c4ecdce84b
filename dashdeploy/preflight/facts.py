"""What is known of a run before it starts: its data, teacher and student, what stands against it, what is finished."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar

from dashdeploy import stages
from dashdeploy.data.images import LabelledImages
from dashdeploy.diffusion.schedule import NoiseSchedule
from dashdeploy.errors import UserError
from dashdeploy.recipe import keys
from dashdeploy.recipe.schema import Recipe
from dashdeploy.students.architecture import StudentDesign
from dashdeploy.teachers import choose

Step = Literal["teach", "distill", "export", "bench"]
STEPS: tuple[Step, ...] = ("teach", "distill", "export", "bench")
P = ParamSpec("P")
T = TypeVar("T")


@dataclass
class Facts:
    """What is known of a run before it starts; None: not known, because it could not be read.

    Attributes:
        stored, data: the dataset as its files hold it, and what networks are trained on: it, or its latents.
        teacher: the opened teacher; None also where it is yet to be trained.
        config: the teacher's configuration with its class name.
        problems, warnings: a line each.
        reasons: stage (teacher, student, an artifact's or a package's folder, bench) -> why it would be made again; []
            where it is finished, and no entry where nothing has been made.
    """

    stored: LabelledImages | None = None
    data: LabelledImages | None = None
    teacher: choose.Teacher | None = None
    config: dict[str, Any] | None = None
    schedule: NoiseSchedule | None = None
    student: StudentDesign | None = None
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    reasons: dict[str, list[str]] = field(default_factory=dict)

    def check(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """The function's result; None where it refuses, and its message is one more problem."""
        try:
            return function(*args, **kwargs)
        except UserError as error:
            if str(error) not in self.problems:
                self.problems.append(str(error))
            return None

    def to_make(self, stage: str) -> bool:
        """Whether the stage has to be made, at first or again."""
        return self.reasons.get(stage) != []


def note(facts: Facts, name: str, folder: Path, stage: keys.Stage, recipe: Recipe, inputs: dict[str, Any]) -> None:
    """Note whether a stage is finished, or why it would be made again."""
    manifest = manifest_of(folder)
    if manifest is not None:
        facts.reasons[name] = stages.differences(manifest, stage, recipe, inputs)
    elif folder.exists():
        facts.reasons[name] = ["it cannot be read"]


def follow(facts: Facts, name: str, source: str, *, fresh: bool) -> None:
    """A finished stage is made again where what it is made from is."""
    if facts.reasons.get(name) is None:
        return
    if fresh:
        facts.reasons[name] = ["--fresh"]
    elif facts.to_make(source) and not facts.reasons[name]:
        facts.reasons[name] = [f"{source} is made again"]


def manifest_of(folder: Path) -> dict[str, Any] | None:
    """A finished stage's manifest; None: there is none that can be read."""
    try:
        return stages.read_manifest(folder)
    except UserError:
        return None


def sha256(folder: Path) -> str | None:
    """A finished stage's hash, by its manifest; None: there is none."""
    manifest = manifest_of(folder)
    return None if manifest is None else stages.Stage(folder, manifest).sha256
