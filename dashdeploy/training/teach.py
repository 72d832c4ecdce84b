"""The teach stage: train a class-conditional teacher and write it in diffusers format."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch

from dashdeploy import autoencoder, seeds, stages
from dashdeploy.data import load_dataset
from dashdeploy.data.encode import autoencoder_of, vae_sha256
from dashdeploy.data.images import LabelledImages
from dashdeploy.diffusion import schedule as schedules
from dashdeploy.diffusion.denoiser import Interface, TorchDenoiser
from dashdeploy.diffusion.schedule import NoiseSchedule
from dashdeploy.errors import UserError
from dashdeploy.objectives.scratch import Scratch
from dashdeploy.recipe import schema
from dashdeploy.teachers import networks, untrained
from dashdeploy.training.accelerator import make_accelerator
from dashdeploy.training.batches import FreshDraws
from dashdeploy.training.loop import train
from dashdeploy.training.step import TrainStep
from dashdeploy.training.timestep_weights import TimestepWeights
from dashdeploy.training.work import ready, working, write


def teach(recipe: schema.Recipe, run_folder: Path, *, fresh: bool = False) -> stages.Stage:
    """Train the recipe's teacher into run_folder/teacher, or return it if it is already there.

    Raises:
        UserError: the recipe has no `teach` section; another teacher is finished there, and `fresh` is not given; or
            a training error (see training.loop.train).
    """
    config, folder = recipe.teach, run_folder / "teacher"
    if config is None:
        raise UserError(f"recipe {recipe.name} has no teach section: its teacher is {recipe.teacher.path}")
    data, schedule = _data_and_schedule(recipe)
    inputs = inputs_of(recipe, data, schedule)
    key = stages.stage_key("teacher", recipe, inputs)
    look = partial(ready, folder, "teacher", key=key, recipe=recipe, inputs=inputs, fresh=fresh)
    if done := look():
        return done
    accelerator = make_accelerator(config, work=stages.work_path(folder))
    vae = autoencoder_of(recipe.data, data)
    with working(folder, key=key, fresh=fresh) as work:
        if done := look():  # another process may have finished it before this one had the lock
            return done
        # Prepare.
        train_data, _ = data.split(recipe.data.holdout)
        source = FreshDraws(train_data, schedule, batch_size=config.batch_size, seed=recipe.seed)
        module = teacher_step(recipe.seed, config, data, schedule)
        # Train.
        figures = train(
            module,
            source,
            config,
            recipe=recipe,
            accelerator=accelerator,
            folder=work,
            key=key,
            title=f"teacher {recipe.name}",
        )

        # Write.
        def contents(draft: stages.Draft) -> None:
            unet = module.denoiser.unet
            dtype = getattr(torch, config.save_dtype)
            networks.save(unet, schedule, draft.folder, clip_sample=not data.are_latents, dtype=dtype)
            if vae is not None:
                vae.save(draft.folder / autoencoder.FOLDER)
            draft.figures.update(parameters=parameters(unet), classes=list(data.classes))

        write(folder, work, module, figures, key=key, recipe=recipe, inputs=inputs, contents=contents)
    return stages.read_stage(folder)


def key_of(recipe: schema.Recipe) -> str:
    """The key of the teacher that `teach` would train."""
    return stages.stage_key("teacher", recipe, inputs_of(recipe, *_data_and_schedule(recipe)))


def teacher_step(seed: int, config: schema.Teach, data: LabelledImages, schedule: NoiseSchedule) -> TrainStep:
    """A new teacher with its objective and timestep weights."""
    unet = untrained.build(
        config,
        image_shape=data.image_shape,
        num_classes=data.num_classes,
        seed=seeds.derive(seed, "teacher"),
    )
    denoiser = TorchDenoiser(unet, Interface(data.num_classes, data.image_shape, schedule))
    weights = TimestepWeights(config.timestep_weights, schedule)
    return TrainStep(denoiser, weights, Scratch(label_dropout=config.label_dropout).terms)


def parameters(module: torch.nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in module.parameters())


def _data_and_schedule(recipe: schema.Recipe) -> tuple[LabelledImages, NoiseSchedule]:
    return load_dataset(recipe.data), schedules.from_recipe(recipe.noise_schedule or schema.NoiseSchedule())


def inputs_of(recipe: schema.Recipe, data: LabelledImages, schedule: NoiseSchedule) -> dict[str, str | bool]:
    """What the teacher depends on beside the recipe's fields."""
    vae = vae_sha256(recipe.data)
    inputs: dict[str, str | bool] = {
        "data": data.sha256,
        "horizontal_flip": data.horizontal_flip,
        "schedule": schedule.sha256,
    }
    return {**inputs, **({"vae": vae} if vae else {})}
