"""The accelerator of a training run: device, precision, processes, and a tracker where the recipe names one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.tracking import get_available_trackers
from accelerate.utils import DistributedDataParallelKwargs

from dashdeploy import ranks
from dashdeploy.errors import UserError
from dashdeploy.recipe import schema

TRACKER = "tracker"
"""The folder of a tracker that keeps files, within the work folder and then the stage's."""


def make_accelerator(config: schema.Training, *, work: Path, by_turns: bool = False) -> Accelerator:
    """The accelerator that the recipe and the launcher's environment ask for.

    Args:
        work: the stage's work folder, for a tracker that keeps files. It need not exist yet.
        by_turns: some parameters have no gradient in some steps.

    Raises:
        UserError: see `refuse`, or the device does not train in the precision.
    """
    refuse(config, processes=ranks.state().num_processes)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    mixed = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}[config.precision]
    # accelerate keeps the first precision for the whole process, and the stages of one run may differ in theirs.
    AcceleratorState._reset_state()
    ranks.state()
    try:
        accelerator = Accelerator(
            mixed_precision=mixed,
            log_with=config.tracker,
            project_dir=work / TRACKER,
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=by_turns)],
        )
    except ValueError as error:  # a GPU without bf16
        raise UserError(f"precision {config.precision}: {error} Set it to fp32.") from error
    if mixed != "no" and not accelerator.native_amp:
        raise UserError(
            f"precision {config.precision} does not work on a {accelerator.device.type.upper()}: accelerate would "
            "train in float32 without a word. Set it to bf16 or fp32."
        )
    return accelerator


def refuse(config: schema.Training, *, processes: int) -> None:
    """What cannot be trained here.

    Raises:
        UserError: the batch does not divide among the processes, or the tracker is not installed.
    """
    if config.tracker is not None and config.tracker not in [str(tracker) for tracker in get_available_trackers()]:
        package = config.tracker.replace("_", "-")
        raise UserError(f"tracker: {config.tracker} is not installed here. Install it with: pip install {package}")
    if config.batch_size % (processes * config.gradient_accumulation):
        raise UserError(
            f"batch_size {config.batch_size} does not divide among {processes} processes × "
            f"{config.gradient_accumulation} accumulation steps; choose a multiple of "
            f"{processes * config.gradient_accumulation}"
        )


@contextmanager
def tracking(accelerator: Accelerator, recipe: schema.Recipe, *, start: int) -> Iterator[None]:
    """The recipe's tracker, if it names one, open: `accelerator.log` writes to it.

    Args:
        recipe: its name is the project's name, and its resolved values are the tracker's configuration.
        start: steps that are done already. TensorBoard drops what an interrupted run had logged past them.
    """
    accelerator.init_trackers(
        recipe.name, config=flat(recipe.model_dump(mode="json")), init_kwargs={"tensorboard": {"purge_step": start + 1}}
    )
    try:
        yield
    finally:
        # Not accelerator.end_training(): it ends the process group too, which the next stage of the run needs.
        for tracker in accelerator.trackers:
            tracker.finish()


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Sections within sections as dotted keys, lists as text: the values that every tracker takes."""
    entries: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            entries |= flat(value, f"{prefix}{key}.")
        else:
            entries[prefix + key] = str(value) if isinstance(value, list) else value
    return entries
