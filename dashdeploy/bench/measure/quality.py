"""Sample quality over guidance: FID and KID to real images and to the teacher's images, and a classifier's accuracy."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from dashdeploy.bench.measure import samples
from dashdeploy.bench.record.parts import Estimate, QualityRow
from dashdeploy.bench.record.record import STUDENT, TEACHER
from dashdeploy.data.images import LabelledImages
from dashdeploy.diffusion import guidance
from dashdeploy.diffusion.sampling import generate, plan
from dashdeploy.metrics import frechet
from dashdeploy.metrics.features import Extractor
from dashdeploy.progress import progress
from dashdeploy.recipe.schema import Guidance, Quality, Recipe, Sampling
from dashdeploy.runtime.model import Model

Features = NDArray[np.float32]
Job = tuple[str, str]
"""A model, and the label of a guidance."""


@dataclass(frozen=True)
class Measured:
    """What `measure` gives.

    Attributes:
        rows: quality of each job.
        images: of each job, (N, C, H, W) uint8.
        num_reference: number of real images.
        reused: models whose images were there already, made with the same weights, seed and settings.
    """

    rows: dict[Job, QualityRow]
    images: dict[Job, torch.Tensor]
    num_reference: int
    reused: tuple[str, ...]


def jobs(recipe: Recipe, models: Iterable[str]) -> dict[Job, Guidance]:
    """Every model at every guidance of the recipe, the teacher first.

    The student in torch is measured at the recipe's guidance only, if the recipe wants that and there are artifacts.
    """
    models = list(models)
    scale = recipe.sampling.guidance
    scales = list(dict.fromkeys([*recipe.bench.quality.guidance, scale]))
    once = len(models) > 2 and recipe.bench.quality.torch_student == "recipe"
    wanted = {name: [scale] if name == STUDENT and once else scales for name in models}
    return {(name, guidance.label(scale)): scale for name in models for scale in wanted[name]}


def measure(
    models: dict[str, Model],
    wanted: dict[Job, Guidance],
    recipe: Recipe,
    data: LabelledImages,
    extractor: Extractor | None,
    *,
    folders: dict[str, Path],
    cache: Path,
) -> Measured:
    """Draw and score the images of every job; the teacher's jobs come first, for the distances to its images.

    Args:
        extractor: None: the images are drawn and not scored.
        folders: by model; images are also looked for in their subfolder `samples`.
        cache: where images are looked for and kept.
    """
    config, seed = recipe.bench.quality, recipe.bench.seed
    train, _ = data.split(recipe.data.holdout)
    real = reference(train, extractor) if extractor else None
    rows: dict[Job, QualityRow] = {}
    images: dict[Job, torch.Tensor] = {}
    of_teacher: dict[str, Features] = {}
    reused = []
    calls = -(-config.num_images // config.batch_size) * recipe.sampling.num_inference_steps
    with progress("quality", total=len(wanted) * calls) as advance:
        for (name, label), scale in wanted.items():
            model = models[name]
            run = plan(recipe.sampling, model.denoiser.interface.schedule.num_train_timesteps, scale=scale)
            key = samples.key(model.sha256, run, num_images=config.num_images, seed=seed)
            shape = (config.num_images, *model.denoiser.interface.image_shape)
            drawn = samples.load([folders[name] / samples.FOLDER, cache], key, shape=shape)
            if drawn is not None:
                reused.append(name)
                advance(calls)
            else:
                drawn = sample(model, scale, config, recipe.sampling, seed=seed, on_step=lambda _: advance(1))
                samples.save(cache, key, drawn)
            images[name, label] = drawn
            if extractor is None or real is None:
                continue
            teacher = of_teacher.get(label) if name != TEACHER else None
            row, features = score(
                name, scale, drawn, real, teacher, extractor, config, num_classes=data.num_classes, seed=seed
            )
            if name == TEACHER:
                of_teacher[label] = features
            rows[name, label] = row
    return Measured(rows, images, 0 if real is None else len(real), tuple(dict.fromkeys(reused)))


def balanced_labels(num_images: int, num_classes: int) -> torch.Tensor:
    """(N,) int64: classes in turn, so that every prefix is as balanced as possible."""
    return torch.arange(num_images) % num_classes


def reference(data: LabelledImages, extractor: Extractor) -> Features:
    """(N, D) float32: features of the real images that samples are compared with."""
    features, _ = extractor(torch.from_numpy(data.images))
    return features


def sample(
    model: Model,
    scale: Guidance,
    config: Quality,
    sampling: Sampling,
    *,
    seed: int,
    on_step: Callable[[int], None] | None = None,
) -> torch.Tensor:
    """config.num_images uint8 images of balanced classes, from the same noise for every model and guidance."""
    interface = model.denoiser.interface
    return generate(
        model.sample,
        interface,
        plan(sampling, interface.schedule.num_train_timesteps, scale=scale),
        labels=balanced_labels(config.num_images, interface.num_classes),
        seed=seed,
        batch_size=config.batch_size,
        device=model.device,
        on_step=on_step,
    )


def score(
    name: str,
    scale: Guidance,
    images: torch.Tensor,
    real: Features,
    teacher: Features | None,
    extractor: Extractor,
    config: Quality,
    *,
    num_classes: int,
    seed: int,
) -> tuple[QualityRow, Features]:
    """The row of one model's images at one guidance, and their features (N, D).

    Args:
        images: (N, C, H, W) uint8 of balanced labels.
        real: features of the real images.
        teacher: features of the teacher's images at this guidance; None: there are none to compare with.
    """
    features, predicted = extractor(images)
    labels = balanced_labels(len(images), num_classes).numpy()
    accuracy = float("nan") if predicted is None else float((predicted == labels).mean())

    def fid(to: Features) -> Estimate:
        statistics = frechet.statistics(to)
        return _estimate(frechet.fid(features, statistics, resamples=config.bootstrap, seed=seed, strata=labels))

    row = QualityRow(
        model=name,
        guidance=guidance.label(scale),
        w=float(scale) if isinstance(scale, int | float) else None,
        fid=fid(real),
        kid=_estimate(frechet.kid(features, real, seed=seed, strata=labels)),
        fid_to_teacher=None if teacher is None else fid(teacher),
        accuracy=accuracy,
    )
    return row, features


def _estimate(distance: frechet.Estimate) -> Estimate:
    return Estimate(value=distance.value, low=distance.low, high=distance.high)
