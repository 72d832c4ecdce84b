"""What each stage's result depends on: the whole recipe, without the fields that LEFT_OUT names and gives a reason for.

A stage is made again when its key changes (stages.stage_key): the hash of these values and of the stage's inputs. The
key is made by subtraction, so that a new field of the schema is part of every key until somebody says why it is not.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from dashdeploy.recipe.schema import Recipe

Stage = Literal["teacher", "bank", "student", "artifact", "package", "bench"]
"""`bank`: the teacher's outputs that students share; the others are the stages of a run."""


def _because(reason: str, *fields: str) -> dict[str, str]:
    return dict.fromkeys(fields, reason)


def _watching(section: str) -> dict[str, str]:
    """The fields of a training section that say how a run is watched or carried out, and not what it makes."""
    return {
        **_because("how a run is logged and saved", f"{section}.log_every", f"{section}.tracker"),
        **_because("a resumed run ends as one that was never stopped", f"{section}.checkpoint_every"),
        # Another number of threads cuts sums differently: the last bits change, as they do on another machine, whose
        # results are taken as the same too.
        **_because("changes the last bits at most, as another machine does", f"{section}.threads"),
    }


UNREAD = "the stage does not read it"
"""The reason of whole sections."""
NAME = _because("names the folder", "name")
DATA = {
    **_because("the data's hash is an input", "data.path", "data.download", "data.image_size"),
    **_because("its hash is part of the data's, an input, or that of the student's own, which is one", "data.vae"),
    **_because("an input, once null is resolved to the dataset's default", "data.horizontal_flip"),
}
TEACHER = _because("the teacher's hash is an input", "noise_schedule", "teacher", "teach")
STUDENT = _because("the student's hash is an input", "data", "noise_schedule", "teacher", "teach", "student", "distill")
AFTERWARDS = _because(UNREAD, "export", "bench")

LEFT_OUT: dict[Stage, dict[str, str]] = {
    "teacher": {
        **NAME,
        **DATA,
        **_because("the schedule's hash is an input", "noise_schedule"),
        **_watching("teach"),
        **_because(UNREAD, "teacher", "student", "distill", "sampling"),
        **AFTERWARDS,
    },
    "bank": {
        **NAME,
        **DATA,
        **TEACHER,
        **_because(UNREAD, "student"),
        **_because(
            "how a student learns from the bank",
            *("distill.steps", "distill.batch_size", "distill.gradient_accumulation", "distill.learning_rate"),
            *("distill.lr_schedule", "distill.warmup_steps", "distill.weight_decay", "distill.gradient_clip"),
            *("distill.ema_decay", "distill.timestep_weights", "distill.precision"),
        ),
        **_because("inputs say what it wants of the teacher; the rest is learning", "distill.objective"),
        **_watching("distill"),
        **_because("the bank is drawn at timesteps, and nothing is sampled", "sampling.solver", "sampling.clip_sample"),
        **_because("the bank holds both branches, without guidance", "sampling.guidance"),
        **AFTERWARDS,
    },
    "student": {
        **NAME,
        **DATA,
        **TEACHER,
        **_because(
            "the network that it comes to is an input",
            *("student.compression", "student.layers_per_block", "student.architecture", "student.dit"),
        ),
        **_watching("distill"),
        # Not sampling.clip_sample: the student's folder says it to diffusers.
        **_because("training samples nothing", "sampling.solver"),
        **AFTERWARDS,
    },
    "artifact": {
        **NAME,
        **STUDENT,
        **_because("each target is a stage, and its values are an input", "export"),
        **_because(UNREAD, "bench"),
    },
    "package": {
        **STUDENT,
        **_because("the artifact's hash is an input", "seed"),
        **_because("each package is a stage, and its values are an input", "export"),
        **_because(UNREAD, "bench"),
    },
    "bench": {
        **_because("the benchmark has a seed", "seed"),
        **DATA,
        **TEACHER,
        **_because("the student's hash is an input", "student", "distill"),
        **_because("the artifacts' hashes are an input", "export"),
        **_because("the feature network's hash is an input", "bench.quality.features_weights"),
        **_because("the file's hash is an input", "bench.quality.reference"),
    },
}
"""Stage -> field or section -> why it is not part of the stage's key."""


def left_out(recipe: Recipe, stage: Stage) -> dict[str, str]:
    """The fields that are not part of a stage's key, with the reasons: LEFT_OUT's, and those idle in this recipe."""
    fields = dict(LEFT_OUT[stage])
    if stage in ("student", "bank") and recipe.distill.timesteps == "uniform":
        fields |= _because(
            "distill.timesteps: uniform draws from all", "sampling.num_inference_steps", "sampling.timestep_spacing"
        )
    if stage == "teacher" and recipe.teach is not None:
        other = "teach.dit" if recipe.teach.dit is None else "teach.architecture"
        fields |= _because("the network is of the other kind", other)
    if stage == "student" and recipe.student.init.kind == "run":
        fields |= _because("that student's hash is an input", "student.init.path")
    if stage == "student" and not recipe.distill.objective.reads_guidance:
        fields |= _because("the objective does not read it", "sampling.guidance")
    return fields


def depends_on(recipe: Recipe, stage: Stage) -> dict[str, Any]:
    """The resolved values that a stage's result depends on, as plain JSON values, sections within sections."""
    return without(recipe.model_dump(mode="json"), left_out(recipe, stage))


def without(values: dict[str, Any], fields: Iterable[str]) -> dict[str, Any]:
    """`values` without these dotted fields; what a section that is null would hold is not there to remove."""
    for field in fields:
        *sections, name = field.split(".")
        section: Any = values
        for part in sections:
            section = section.get(part) if isinstance(section, dict) else None
        if isinstance(section, dict):
            section.pop(name, None)
    return values
