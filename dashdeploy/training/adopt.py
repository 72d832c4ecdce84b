"""Adopt a published checkpoint: write it as a teacher folder in diffusers format, with its λ beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dashdeploy.diffusion import schedule as schedules
from dashdeploy.errors import UserError
from dashdeploy.recipe import schema
from dashdeploy.teachers import networks, published
from dashdeploy.training.timestep_weights import TimestepWeights


@dataclass(frozen=True)
class Adopted:
    """What was written."""

    folder: Path
    parameters: int
    num_classes: int
    has_lambda: bool


def adopt(checkpoint: Path, folder: Path, *, image_size: int = 32, weights: Literal["ema", "model"] = "ema") -> Adopted:
    """Write `unet/`, `scheduler/` and, of a teacher, timestep_weights.safetensors; the layout: teachers.published.

    λ goes by the kind `published`, whose normaliser is theirs; `tirt` takes it too.

    Raises:
        UserError: the checkpoint is not of the paper's layout, or the folder is there and not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: is there already; give a new folder")
    found = published.read(checkpoint, image_size=image_size, weights=weights)
    network = networks.restore(found.config, found.state, folder=checkpoint, role="teacher")
    steps = {} if found.lam is None else {"num_train_timesteps": len(found.lam)}
    schedule = schedules.from_recipe(schema.NoiseSchedule.model_validate({**published.SCHEDULE, **steps}))
    networks.save(network, schedule, folder)
    if found.lam is not None and found.gamma is not None:
        kind = schema.TimestepWeights(kind="published", gamma=found.gamma)
        TimestepWeights(kind, schedule, frozen_lambda=found.lam.float()).save(folder)
    return Adopted(
        folder=folder,
        parameters=sum(p.numel() for p in network.parameters()),
        num_classes=found.config["num_class_embeds"] - 1,
        has_lambda=found.lam is not None,
    )
