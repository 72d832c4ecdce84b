"""The teach stage: train a class-conditional teacher and write it in diffusers format."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator

from dashdeploy import seeds, stages
from dashdeploy.data import load_dataset
from dashdeploy.diffusion import schedule as schedules
from dashdeploy.diffusion.denoiser import Interface, TorchDenoiser
from dashdeploy.errors import UserError
from dashdeploy.recipe import schema
from dashdeploy.teachers import networks, unet2d
from dashdeploy.training import objectives
from dashdeploy.training.batches import FreshDraws
from dashdeploy.training.loop import parameters
from dashdeploy.training.stage import train_stage
from dashdeploy.training.step import TrainStep
from dashdeploy.training.timestep_weights import TimestepWeights


def teach(recipe: schema.Recipe, run_folder: Path, *, fresh: bool = False) -> stages.Stage:
    """Train the recipe's teacher into run_folder/teacher, or return it if it is already there.

    Raises:
        UserError: the recipe has no `teach` section, or a training error (see training.loop.train).
    """
    config = recipe.teach
    if config is None:
        raise UserError(f"recipe {recipe.name} has no teach section: its teacher is {recipe.teacher.path}")
    data = load_dataset(recipe.data)
    schedule = schedules.from_recipe(recipe.noise_schedule or schema.NoiseSchedule())
    inputs = {
        "data": data.sha256,
        "holdout": recipe.data.holdout,
        "schedule": schedule.sha256,
        "teach": stages.training_settings(config.model_dump(mode="json")),
        "seed": recipe.seed,
    }

    def build(*, accelerator: Accelerator, work: Path, key: str) -> tuple[TrainStep, FreshDraws]:
        seed = seeds.derive(recipe.seed, "teacher")
        unet = unet2d.build(config.architecture, image_shape=data.image_shape, num_classes=data.num_classes, seed=seed)
        denoiser = TorchDenoiser(unet, Interface(data.num_classes, data.image_shape, schedule))
        weights = TimestepWeights(config.timestep_weights, schedule)
        train_data, _ = data.split(recipe.data.holdout)
        source = FreshDraws(train_data, schedule, batch_size=config.batch_size, seed=recipe.seed)
        return TrainStep(denoiser, weights, partial(objectives.denoise, config=config)), source

    def write(module: TrainStep, draft: stages.Draft) -> None:
        networks.save(module.denoiser.unet, schedule, draft.folder, dtype=getattr(torch, config.save_dtype))
        module.weights.save(draft.folder)
        draft.figures.update(parameters=parameters(module.denoiser.unet), classes=list(data.classes))

    return train_stage(recipe, run_folder / "teacher", config, inputs=inputs, build=build, write=write, fresh=fresh)
