"""The phases of a student's training: one, or, where the number of steps is halved, one for each number of steps.

All phases count their steps on, and share the checkpoint and the metrics. What a finished one leaves for the next, its
averaged weights, is kept beside them.
"""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from dashdeploy import ranks
from dashdeploy.data.images import LabelledImages
from dashdeploy.diffusion.denoiser import TorchDenoiser
from dashdeploy.recipe import schema
from dashdeploy.training import checkpoint
from dashdeploy.training.accelerator import make_accelerator
from dashdeploy.training.bank import banked
from dashdeploy.training.loop import train
from dashdeploy.training.progress import Phase
from dashdeploy.training.step import TrainStep
from dashdeploy.training.student import live_source


def phases_of(config: schema.Distill) -> list[Phase]:
    """The phases of a training, which share its steps equally."""
    count = len(config.objective.phases)
    if not count:
        return [Phase(0, config.steps)]
    share = config.steps // count
    return [Phase(i * share, (i + 1) * share, i + 1) for i in range(count)]


def train_phases(
    recipe: schema.Recipe,
    data: LabelledImages,
    teacher: TorchDenoiser,
    module: TrainStep,
    inputs: dict[str, Any],
    *,
    accelerator: Accelerator,
    banks: Path | None,
    work: Path,
    key: str,
) -> tuple[TrainStep, dict[str, Any]]:
    """Train `module` through all phases; from the second on the averaged student of the one before is the teacher.

    Args:
        inputs: see `banked`.
        accelerator: of the first phase. Each further one has its own: an optimizer and a loss scale stay with it.
        banks: a folder for the bank of the first phase, whose teacher other students may have too. None: `work`.

    Returns:
        the student of the last phase, and the last line of metrics.

    Raises:
        UserError, Interrupted: see `loop.train`.
    """
    config, figures = recipe.distill, dict[str, Any]()
    phases = phases_of(config)
    for phase in phases:
        number = phase.number or 1
        if number > 1:
            teacher, module = module.denoiser.to(accelerator.device), _begin(module)
            accelerator = make_accelerator(config, work=work)
            banks, inputs = None, {**inputs, "student": key, "phase": number}
            teacher.eval().requires_grad_(False)
        finished = work / f"phase-{number}"
        if kept := checkpoint.load(finished, key=key):
            module.denoiser.unet.load_state_dict(kept["unet"])
            continue
        live = live_source(recipe, data, teacher, phase=number)
        wants_bank = config.teacher_bank > 0 and config.objective.needs_teacher
        figures = train(
            module,
            banked(recipe, live, inputs, folder=banks or work, accelerator=accelerator) if wants_bank else live,
            config,
            recipe=recipe,
            accelerator=accelerator,
            folder=work,
            key=key,
            title=f"student {recipe.name}" + (f", phase {number} of {len(phases)}" if len(phases) > 1 else ""),
            phase=phase,
        )
        if phase is not phases[-1]:
            ranks.in_main(partial(_keep, module, finished, key=key))
    return module, figures


def _begin(module: TrainStep) -> TrainStep:
    """A new student with the weights of a finished phase's: parameters that no optimizer or process group knows."""
    unet = copy.deepcopy(module.denoiser.unet).train()
    return TrainStep(module.denoiser.around(unet), module.weights, module.objective, prediction=module.prediction)


def _keep(module: TrainStep, folder: Path, *, key: str) -> None:
    folder.mkdir(exist_ok=True)
    checkpoint.save(folder, {"unet": module.denoiser.unet.state_dict()}, key=key)
