"""A new student before its first step: its weights, its objective, and the draws that it learns from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from dashdeploy import seeds
from dashdeploy.data.images import LabelledImages
from dashdeploy.diffusion import guidance
from dashdeploy.diffusion.denoiser import TorchDenoiser
from dashdeploy.diffusion.sampling import plan
from dashdeploy.objectives.base import Batch, Terms
from dashdeploy.progress import progress
from dashdeploy.recipe import schema
from dashdeploy.students import pruning
from dashdeploy.students.architecture import StudentDesign
from dashdeploy.teachers import networks
from dashdeploy.training.batches import FreshDraws
from dashdeploy.training.hints import Hints, middle_features
from dashdeploy.training.step import TrainStep
from dashdeploy.training.timestep_weights import TimestepWeights

IMPORTANCE_BATCH = 64
"""Images that one forward and backward of the teacher takes, where the importance of its channels is measured."""


def describe_student(recipe: schema.Recipe, student: StudentDesign) -> str:
    """What is known of the student before anything runs: its size beside the teacher's, and how its weights begin."""
    init = recipe.student.init
    start = f", pruned from the teacher by {init.importance}" if init.kind == "pruned" else ""
    return f"{student.teacher_parameters:,} → {student.parameters:,} parameters ({student.compression:.2f}×){start}"


def live_source(recipe: schema.Recipe, data: LabelledImages, teacher: TorchDenoiser) -> FreshDraws:
    """Fresh noise at every step on the training images; the teacher runs on it if the objective asks for it."""
    train_data, _ = data.split(recipe.data.holdout)
    schedule, config = teacher.interface.schedule, recipe.distill
    visited = plan(recipe.sampling, schedule.num_train_timesteps).timesteps if config.timesteps == "sampling" else None
    return FreshDraws(
        train_data,
        schedule,
        batch_size=config.batch_size,
        seed=recipe.seed,
        teacher=teacher if config.objective.needs_teacher else None,
        features=middle_features if config.objective.hint_weight else None,
        precision=config.teacher_precision,
        timesteps=visited,
    )


def student_step(
    recipe: schema.Recipe,
    student: StudentDesign,
    teacher: TorchDenoiser,
    weights: TimestepWeights,
    data: LabelledImages,
) -> TrainStep:
    """A new student with its objective and timestep weights."""
    denoiser = TorchDenoiser(new_student(recipe, student, teacher, data).train(), teacher.interface)
    return TrainStep(denoiser, weights, make_objective(recipe, denoiser, teacher))


def new_student(recipe: schema.Recipe, student: StudentDesign, teacher: TorchDenoiser, data: LabelledImages) -> Any:
    """The student's network as `student.init` has it begin: from the recipe's seed, or from its teacher too."""
    init = recipe.student.init
    with seeds.torch_seed(recipe.seed, "student"):
        if init.kind == "pruned":
            draws = _importance_draws(recipe, init.samples, teacher, data)
            return pruning.prune(teacher, student.config, init, draws=draws, seed=recipe.seed)
        return networks.create(student.config, network=student.network)


def make_objective(
    recipe: schema.Recipe, student: TorchDenoiser, teacher: TorchDenoiser
) -> Callable[[TorchDenoiser, Batch], Terms]:
    """The recipe's objective with its settings: a function, or a module where the objective has parameters."""
    objective = recipe.distill.objective
    if objective.reads_guidance:
        total = teacher.interface.schedule.num_train_timesteps
        objective = objective.at_guidance([guidance.weight(recipe.sampling.guidance, t, total) for t in range(total)])
    if not objective.hint_weight:
        return objective.terms
    with seeds.torch_seed(recipe.seed, "adapter"):
        return Hints(student, teacher, objective.terms, weight=objective.hint_weight)


def _importance_draws(
    recipe: schema.Recipe, num_draws: int, teacher: TorchDenoiser, data: LabelledImages
) -> Iterator[Batch]:
    """Noised training images to measure the importance of the teacher's channels on, drawn as they are asked for."""
    train_data, _ = data.split(recipe.data.holdout)
    seed = seeds.derive(recipe.seed, "importance")
    source = FreshDraws(train_data, teacher.interface.schedule, batch_size=min(num_draws, IMPORTANCE_BATCH), seed=seed)
    starts = range(0, num_draws, IMPORTANCE_BATCH)
    with progress("importance", total=len(starts)) as advance:
        for start in starts:
            yield source.draw(start // IMPORTANCE_BATCH).take(slice(num_draws - start))
            advance(1)
