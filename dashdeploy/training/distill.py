"""The distill stage: train a compact student from a teacher and write it in diffusers format."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from accelerate import Accelerator, PartialState
from rich.console import Console
from rich.progress import track

from dashdeploy import seeds, stages
from dashdeploy.data import load_dataset
from dashdeploy.data.images import LabelledImages
from dashdeploy.diffusion import guidance
from dashdeploy.diffusion.denoiser import TorchDenoiser
from dashdeploy.diffusion.sampling import plan
from dashdeploy.errors import UserError
from dashdeploy.recipe import objectives as sections
from dashdeploy.recipe import schema
from dashdeploy.recipe.objectives import hint_of
from dashdeploy.students import pruning
from dashdeploy.students.architecture import StudentPlan, design
from dashdeploy.teachers import choose, networks, unet2d
from dashdeploy.training import objectives
from dashdeploy.training.bank import banked
from dashdeploy.training.batches import Batch, FreshDraws, Source
from dashdeploy.training.hints import Hints, middle_features
from dashdeploy.training.stage import train_stage
from dashdeploy.training.step import TrainStep
from dashdeploy.training.timestep_weights import TimestepWeights, transfer

IMPORTANCE_BATCH = 64
"""Images a forward and backward of the teacher, where the importance of its channels is measured."""


def distill(
    recipe: schema.Recipe,
    run_folder: Path,
    *,
    base: Path | None = None,
    fresh: bool = False,
    banks: Path | None = None,
) -> stages.Stage:
    """Train the recipe's student into run_folder/student, or return it if it is already there.

    Args:
        base: the recipe file's folder, which a relative teacher.path is looked for in.
        banks: a folder where banks of teacher outputs stay, for other students of the same teacher, data and seed.
            None: the bank goes with the work folder.

    Raises:
        UserError: no teacher, or one that does not fit; a training error (see training.loop.train).
    """
    config = recipe.distill
    folder = choose.find(recipe, run_folder, base=base)
    if folder is None:
        raise UserError(f"recipe {recipe.name} has no trained teacher yet: run `dashdeploy teach {recipe.name}` first")
    data = load_dataset(recipe.data)
    teacher = choose.open_teacher(folder, recipe, data)
    interface = teacher.denoiser.interface
    weights = transfer(config.timestep_weights, interface.schedule, folder)
    student = design(recipe.student, networks.config_of(teacher.denoiser.unet))
    inputs = {
        "data": data.sha256,
        "holdout": recipe.data.holdout,
        "teacher": teacher.sha256,
        "student": student.config,
        "distill": objective_settings(config),
        "seed": recipe.seed,
        **other_draws(recipe),
        **guidance_in_use(recipe),
        **init_in_use(recipe.student),
    }

    def build(*, accelerator: Accelerator, work: Path, key: str) -> tuple[TrainStep, Source]:
        live = live_source(recipe, data, teacher.denoiser.to(accelerator.device))
        source: Source = live
        if config.objective.kind in objectives.NEEDS_TEACHER and config.teacher_bank:
            kept = {name: inputs[name] for name in ("data", "holdout", "teacher", "seed")}
            kept |= {"features": True} if hint_of(config.objective) else {}
            bank_key = stages.stage_key("bank", **kept, draws=config.teacher_bank, **other_draws(recipe))
            source = banked(
                live,
                config.teacher_bank,
                batch_size=config.batch_size,
                seed=recipe.seed,
                path=(banks or work) / (f"{bank_key[:16]}.safetensors" if banks else "teacher_bank.safetensors"),
                key=bank_key,
                accelerator=accelerator,
            )
        return student_step(recipe, student, teacher.denoiser, weights, data), source

    def write(module: TrainStep, draft: stages.Draft) -> None:
        networks.save(module.denoiser.unet, interface.schedule, draft.folder)
        module.weights.save(draft.folder)
        draft.figures.update(student.describe(), init=recipe.student.init.model_dump(mode="json"))
        draft.figures.update(teacher=str(folder.absolute()), classes=list(data.classes))

    return train_stage(recipe, run_folder / "student", config, inputs=inputs, build=build, write=write, fresh=fresh)


def init_in_use(config: schema.Student) -> dict[str, Any]:
    """Where the student's weights begin, if not at random: part of the stage's inputs."""
    return {} if config.init.kind == "random" else {"init": config.init.model_dump(mode="json")}


def guidance_in_use(recipe: schema.Recipe) -> dict[str, Any]:
    """The sampling guidance, where the objective depends on it: part of the stage's inputs."""
    config = recipe.distill.objective
    if isinstance(config, sections.Dash) and config.gap == "guidance":
        return {"guidance": recipe.sampling.model_dump(mode="json")["guidance"]}
    return {}


def objective_settings(config: schema.Distill) -> dict[str, Any]:
    """What the section says of training, for the stage's key; what `other_draws` says is left out, and a hint of 0."""
    settings = stages.training_settings(config.model_dump(mode="json", exclude={"teacher_precision", "timesteps"}))
    if not hint_of(config.objective):
        settings["objective"].pop("hint", None)
    return settings


def other_draws(recipe: schema.Recipe) -> dict[str, Any]:
    """What makes draws differ from a float32 teacher's at uniform t: part of the keys of students and banks.

    Nothing where a recipe does not ask for it, so that what was made before there was a choice keeps its key.
    """
    config = recipe.distill
    precision = {} if config.teacher_precision == "fp32" else {"teacher_precision": config.teacher_precision}
    if config.timesteps == "uniform":
        return precision
    sampling = recipe.sampling
    return {**precision, "timesteps": [sampling.num_inference_steps, sampling.timestep_spacing]}


def live_source(recipe: schema.Recipe, data: LabelledImages, teacher: TorchDenoiser) -> FreshDraws:
    """Fresh noise at every step on the training images; the teacher runs on it if the objective asks for it."""
    train_data, _ = data.split(recipe.data.holdout)
    schedule = teacher.interface.schedule
    matched = recipe.distill.timesteps == "sampling"
    return FreshDraws(
        train_data,
        schedule,
        batch_size=recipe.distill.batch_size,
        seed=recipe.seed,
        teacher=teacher if recipe.distill.objective.kind in objectives.NEEDS_TEACHER else None,
        features=middle_features if hint_of(recipe.distill.objective) else None,
        precision=recipe.distill.teacher_precision,
        timesteps=plan(recipe.sampling, schedule.num_train_timesteps).timesteps if matched else None,
    )


def student_step(
    recipe: schema.Recipe, student: StudentPlan, teacher: TorchDenoiser, weights: TimestepWeights, data: LabelledImages
) -> TrainStep:
    """A new student with its objective and timestep weights."""
    denoiser = TorchDenoiser(new_student(recipe, student, teacher, data).train(), teacher.interface)
    return TrainStep(denoiser, weights, make_objective(recipe, denoiser, teacher))


def make_objective(
    recipe: schema.Recipe, student: TorchDenoiser, teacher: TorchDenoiser
) -> Callable[[TorchDenoiser, Batch], objectives.Terms]:
    """The recipe's objective with its settings: a function, or a module where it has parameters of its own."""
    config = recipe.distill.objective
    if isinstance(config, sections.Dash):
        total = teacher.interface.schedule.num_train_timesteps
        scales = [guidance.weight(recipe.sampling.guidance, t, total) for t in range(total)]
        config = objectives.resolve(config, scales)
    objective = partial(objectives.OBJECTIVES[config.kind], config=config)
    if not hint_of(config):
        return objective
    with seeds.torch_seed(recipe.seed, "adapter"):
        return Hints(student, teacher, objective, weight=hint_of(config))


def plan_student(recipe: schema.Recipe, teacher: Path | None) -> str:
    """What is known of the student before anything runs, to be appended to a line: its size beside the teacher's."""
    if teacher is not None:
        config = networks.read_config(teacher, role="teacher")
    else:
        assert recipe.teach is not None
        data = load_dataset(recipe.data)
        config = unet2d.unet_config(
            recipe.teach.architecture, image_shape=data.image_shape, num_classes=data.num_classes
        )
    student = design(recipe.student, config)
    init = recipe.student.init
    start = f", pruned from the teacher by {init.importance}" if init.kind == "pruned" else ""
    return f": {student.teacher_parameters:,} → {student.parameters:,} parameters ({student.compression:.2f}×){start}"


def new_student(recipe: schema.Recipe, student: StudentPlan, teacher: TorchDenoiser, data: LabelledImages) -> Any:
    """A student as `student.init` has it begin: by the recipe's seed alone, or by its teacher too."""
    init = recipe.student.init
    with seeds.torch_seed(recipe.seed, "student"):
        if init.kind == "pruned":
            draws = _importance_draws(recipe, init.samples, teacher, data)
            return pruning.prune(teacher, student.config, init, draws=draws, seed=recipe.seed)
        return networks.create(student.config, network=student.network)


def _importance_draws(
    recipe: schema.Recipe, num_draws: int, teacher: TorchDenoiser, data: LabelledImages
) -> Iterator[Batch]:
    """Noised training images to measure the importance of the teacher's channels on, drawn as they are asked for."""
    train_data, _ = data.split(recipe.data.holdout)
    seed = seeds.derive(recipe.seed, "importance")
    source = FreshDraws(train_data, teacher.interface.schedule, batch_size=min(num_draws, IMPORTANCE_BATCH), seed=seed)
    starts = range(0, num_draws, IMPORTANCE_BATCH)
    shown = PartialState().is_main_process
    for start in track(starts, "importance", console=Console(stderr=True), transient=True, disable=not shown):
        yield source.draw(start // IMPORTANCE_BATCH).take(slice(num_draws - start))
