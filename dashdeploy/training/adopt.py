"""Adopt a published checkpoint: write it as a teacher's folder in diffusers format, with its λ."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dashdeploy import stages
from dashdeploy.diffusion import schedule as schedules
from dashdeploy.errors import UserError, writing
from dashdeploy.recipe import schema
from dashdeploy.teachers import config as configs
from dashdeploy.teachers import networks, published
from dashdeploy.training.timestep_weights import TimestepWeights


@dataclass(frozen=True)
class Adopted:
    """What `adopt` has written: a teacher's folder, and whether it holds a λ."""

    folder: Path
    parameters: int
    num_classes: int
    has_lambda: bool


def adopt(checkpoint: Path, folder: Path, *, image_size: int = 32, weights: Literal["ema", "model"] = "ema") -> Adopted:
    """Write unet/, scheduler/ and, where the checkpoint has a λ, timestep_weights.safetensors into a new folder.

    λ is of the kind `published`, which divides by the batch's mean as the authors' code does; `tirt` reads it too.

    Args:
        checkpoint: a file in the layout of the paper's code, see teachers/published.py.
        weights: the averaged weights (ema), or those of the last step (model).

    Raises:
        UserError: the checkpoint has another layout, or the folder exists and is not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        stages.tidy(folder.absolute())
        raise UserError(f"{folder}: is there already; give a new folder")
    checkpoint_parts = published.read(checkpoint, image_size=image_size, weights=weights)
    configs.network(checkpoint_parts.config, source=f"{checkpoint}: as a UNet2DModel")
    network = networks.restore(checkpoint_parts.config, checkpoint_parts.state, folder=checkpoint, role="teacher")
    steps = {} if checkpoint_parts.lam is None else {"num_train_timesteps": len(checkpoint_parts.lam)}
    schedule = schedules.from_recipe(schema.NoiseSchedule.model_validate({**published.SCHEDULE, **steps}))
    place = folder.absolute()
    with writing(folder), stages.exclusive(place) as work, stages.replacing_folder(place, work) as draft:
        networks.save(network, schedule, draft)
        if checkpoint_parts.lam is not None and checkpoint_parts.gamma is not None:
            kind = schema.TimestepWeights(kind="published", gamma=checkpoint_parts.gamma)
            TimestepWeights(kind, schedule, frozen_lambda=checkpoint_parts.lam.float()).save(draft)
    return Adopted(
        folder=folder,
        parameters=sum(p.numel() for p in network.parameters()),
        num_classes=checkpoint_parts.config["num_class_embeds"] - 1,
        has_lambda=checkpoint_parts.lam is not None,
    )
