"""A new student before its first step: its weights, its objective, and the draws that it learns from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from dashdeploy import seeds
from dashdeploy.data.images import LabelledImages
from dashdeploy.diffusion import guidance
from dashdeploy.diffusion import prediction as predictions
from dashdeploy.diffusion.denoiser import TorchDenoiser
from dashdeploy.diffusion.grids import Grid, grids
from dashdeploy.diffusion.sampling import plan
from dashdeploy.errors import UserError
from dashdeploy.objectives.base import Batch, Objective, Student, Terms
from dashdeploy.objectives.distribution_matching import DistributionMatching
from dashdeploy.objectives.one_branch import OneBranch
from dashdeploy.progress import progress
from dashdeploy.recipe import schema
from dashdeploy.students import dit_pruning, finished, pruning
from dashdeploy.students.architecture import StudentDesign
from dashdeploy.teachers import formats, guidance_embedding, networks
from dashdeploy.training.batches import FreshDraws, GuidedDraws
from dashdeploy.training.fake_score import FakeScore, StudentDraws
from dashdeploy.training.hints import Hints, middle_features
from dashdeploy.training.step import TrainStep
from dashdeploy.training.timestep_weights import TimestepWeights

IMPORTANCE_BATCH = 64
"""Images that one forward and backward of the teacher takes, where the importance of its channels is measured."""


def describe_student(recipe: schema.Recipe, student: StudentDesign) -> str:
    """What is known of the student before anything runs: its size beside the teacher's, and how its weights begin."""
    init = recipe.student.init
    start = f", pruned from the teacher by {init.importance}" if init.kind == "pruned" else ""
    start = f", beginning as the student of {init.path}" if init.kind == "run" else start
    return f"{student.teacher_parameters:,} → {student.parameters:,} parameters ({student.compression:.2f}×){start}"


def live_source(recipe: schema.Recipe, data: LabelledImages, teacher: TorchDenoiser, *, phase: int = 1) -> FreshDraws:
    """Fresh noise at every step on the training images; the teacher runs on it if the objective asks for it.

    Distribution matching noises the student's images in their place.

    Args:
        phase: of the training, from 1. From the second on the teacher is a student, whose x_0 is not clipped: it says
            where its step ends, and may lie outside of [−1, 1].
    """
    train_data, _ = data.split(recipe.data.holdout)
    schedule, config, objective = teacher.interface.schedule, recipe.distill, recipe.distill.objective
    if isinstance(objective, DistributionMatching):
        return StudentDraws(
            train_data,
            schedule,
            objective,
            batch_size=config.batch_size,
            seed=recipe.seed,
            warmup_steps=config.warmup_steps,
        )
    own = student_prediction(recipe, teacher)
    one_branch, total = None, schedule.num_train_timesteps
    if isinstance(objective, OneBranch):
        steps = objective.phases[phase - 1 : phase]
        one_branch = GuidedDraws(
            scale=objective.scale,
            teacher_steps=objective.solver_steps,
            clip=not recipe.data.gives_latents and phase == 1,
            grids=grids(steps or objective.few_steps, total) if not objective.skipped else (),
            skip=objective.skipped,
            finer=grids([2 * n for n in steps], total)[0] if steps else (),
        )
    visited = plan(recipe.sampling, total).timesteps if config.timesteps == "sampling" else None
    return FreshDraws(
        train_data,
        schedule,
        batch_size=config.batch_size,
        seed=recipe.seed,
        teacher=teacher if config.objective.needs_teacher else None,
        features=middle_features if config.objective.hint_weight else None,
        precision=config.teacher_precision,
        timesteps=visited,
        prediction=own if one_branch is not None else predictions.common(own, teacher.interface.prediction),
        one_branch=one_branch,
    )


def grids_of(objective: Objective, num_train_timesteps: int) -> tuple[Grid, ...]:
    """The lists of timesteps that the objective trains a few-step student for.

    Raises:
        UserError: the schedule has too few timesteps for them.
    """
    return grids(objective.few_steps, num_train_timesteps, apart=objective.grids_apart)


def own_keys(recipe: schema.Recipe, num_train_timesteps: int) -> dict[str, Any]:
    """What the configuration of the recipe's student says beside diffusers' arguments, see `networks.OWN_KEYS`.

    Raises:
        UserError: the schedule has too few timesteps for its grids.
    """
    objective = recipe.distill.objective
    if objective.branches == 2:
        return {}
    assert objective.guidance_range is not None
    if objective.phases and 2 * objective.phases[0] > num_train_timesteps:
        raise UserError(
            f"distill.objective {objective.kind}: its first phase halves {2 * objective.phases[0]} steps of the "
            f"teacher, whose schedule has {num_train_timesteps} timesteps. Take fewer steps or halvings."
        )
    if objective.skipped >= num_train_timesteps:
        raise UserError(
            f"distill.objective.skip {objective.skipped}: the teacher's schedule has {num_train_timesteps} timesteps. "
            "Set it lower."
        )
    few = grids_of(objective, num_train_timesteps)
    own: dict[str, Any] = {guidance_embedding.KEY: list(objective.guidance_range)}
    if objective.solver == "consistency":
        own[networks.CONSISTENCY] = True
    return {**own, networks.GRIDS: [list(grid) for grid in few]} if few else own


def student_prediction(recipe: schema.Recipe, teacher: TorchDenoiser) -> predictions.Prediction:
    """What the student predicts: what the recipe says, or what its teacher does.

    Raises:
        UserError: eps, for few steps, or of a teacher with zero terminal SNR.
    """
    own, taught = recipe.student.prediction_type, teacher.interface
    prediction = own or taught.prediction
    if prediction == "epsilon" and (recipe.distill.objective.few_steps or taught.schedule.zero_terminal_snr):
        why = (
            "the teacher's schedule has zero SNR at its end"
            if taught.schedule.zero_terminal_snr
            else (f"distill.objective {recipe.distill.objective.kind} trains for few steps")
        )
        whose = "student.prediction_type is" if own else "student.prediction_type is not given, and the teacher's is"
        raise UserError(
            f"{why}, and {whose} epsilon, which says nothing of the image at the noisiest timestep: set "
            "student.prediction_type to v_prediction or sample."
        )
    return prediction


def refuse_start(recipe: schema.Recipe, teacher: TorchDenoiser) -> None:
    """Refuse a start that an objective cannot fine-tune; its network and range are looked at by `finished.begin`.

    Raises:
        UserError: it is sampled otherwise, makes other steps, or predicts something else; or it would take the weights
            of a teacher of another path (flow matching, EDM), whose network takes and gives other values than a
            student's.
    """
    objective, init = recipe.distill.objective, recipe.student.init
    takes = "student.init pruned" if init.kind == "pruned" else ""
    takes = f"distill.objective {objective.kind}" if isinstance(objective, DistributionMatching) else takes
    if takes and not teacher.is_native:
        raise UserError(
            f"{takes}: it begins with the teacher's own network, which is of another path (flow matching or EDM) than "
            "its students. Take random weights, or a finished run."
        )
    if not objective.fine_tunes or init.kind != "run":
        return
    known, own = formats.load(finished.find(init).folder, role="student").interface, student_prediction(recipe, teacher)
    if known.consistency:
        raise UserError(
            f"student.init.path {init.path!r}: {objective.kind} fine-tunes its student, which samples by the solver "
            "consistency; take a student of segments or progressive."
        )
    if sorted(known.grids) == sorted(grids(objective.few_steps, teacher.interface.schedule.num_train_timesteps)):
        if known.prediction == own:
            return
        problem = f"predicts {known.prediction}, and student.prediction_type asks for {own}. Set it to the same"
    else:
        asked = " or ".join(map(str, objective.few_steps))
        problem = f"makes {known.step_counts} steps, and distill.objective.steps asks for {asked}. Set it to the same"
    raise UserError(
        f"student.init.path {init.path!r}: {objective.kind} fine-tunes its student, which {problem}, or "
        "take another run, of a few-step student."
    )


def other_prediction(recipe: schema.Recipe, teacher: TorchDenoiser) -> str | None:
    """A line where a student begins with the weights of a network that predicts something else; None: it does not.

    That is still a good start, better than random weights (docs/few-steps.md); no change of the weights turns one
    prediction into another.

    Raises:
        UserError: the run that it begins with has no finished student.
    """
    init, own = recipe.student.init, student_prediction(recipe, teacher)
    if init.kind == "random":
        return None
    if init.kind == "run":
        _, known = networks.load_schedule(finished.find(init).folder, "student")
        whose = f"the student of {init.path}"
    else:
        known, whose = teacher.interface.prediction, "its teacher"
    return (
        None if known == own else f"the student begins as {whose}, which predicts {known}, and learns {own} from there"
    )


def student_step(
    recipe: schema.Recipe,
    student: StudentDesign,
    teacher: TorchDenoiser,
    weights: TimestepWeights,
    data: LabelledImages,
) -> TrainStep:
    """A new student with its objective and timestep weights."""
    objective = recipe.distill.objective
    own = student_prediction(recipe, teacher)
    interface = replace(
        teacher.interface,
        prediction=own,
        branches=objective.branches,
        guidance_range=objective.guidance_range if objective.branches == 1 else None,
        grids=grids_of(objective, teacher.interface.schedule.num_train_timesteps),
        consistency=objective.solver == "consistency",
    )
    refuse_start(recipe, teacher)
    denoiser = TorchDenoiser(new_student(recipe, student, teacher, data).train(), interface)
    compared = own if objective.branches == 1 else predictions.common(own, teacher.interface.prediction)
    if objective.skipped or isinstance(objective, DistributionMatching):
        compared = "sample"
    return TrainStep(denoiser, weights, make_objective(recipe, denoiser, teacher), prediction=compared)


def new_student(recipe: schema.Recipe, student: StudentDesign, teacher: TorchDenoiser, data: LabelledImages) -> Any:
    """The student's network as `student.init` has it begin: from the recipe's seed, or from its teacher too."""
    init = recipe.student.init
    with seeds.torch_seed(recipe.seed, "student"):
        if init.kind == "pruned":
            draws = _importance_draws(recipe, init.samples, teacher, data)
            prune = dit_pruning.prune if student.network == networks.DIT else pruning.prune
            return prune(teacher, student.config, init, draws=draws, seed=recipe.seed)
        if init.kind == "run":
            return finished.begin(init, student)
        return networks.create(student.config, network=student.network)


def make_objective(
    recipe: schema.Recipe, student: TorchDenoiser, teacher: TorchDenoiser
) -> Callable[[Student, Batch], Terms]:
    """The recipe's objective with its settings: a function, or a module where the objective has parameters."""
    objective = recipe.distill.objective
    if objective.reads_guidance:
        total = teacher.interface.schedule.num_train_timesteps
        objective = objective.at_guidance([guidance.weight(recipe.sampling.guidance, t, total) for t in range(total)])
    if isinstance(objective, DistributionMatching):
        with seeds.torch_seed(recipe.seed, "fake"):
            return FakeScore(
                teacher,
                objective,
                clip=not recipe.data.gives_latents,
                clip_sample=recipe.sampling.clip_sample,
                precision=recipe.distill.teacher_precision,
            )
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
    batch_size, taught = min(num_draws, IMPORTANCE_BATCH), teacher.interface
    source = FreshDraws(train_data, taught.schedule, batch_size=batch_size, seed=seed, prediction=taught.prediction)
    starts = range(0, num_draws, IMPORTANCE_BATCH)
    with progress("importance", total=len(starts)) as advance:
        for start in starts:
            yield source.draw(start // IMPORTANCE_BATCH).take(slice(num_draws - start))
            advance(1)
