"""Sample quality over guidance: FID and KID to real images, FID to the teacher's, and a classifier's accuracy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from dashdeploy import seeds
from dashdeploy.bench.measure import samples
from dashdeploy.bench.record.parts import Estimate, QualityRow, SeedFigures
from dashdeploy.bench.record.record import STUDENT, TEACHER
from dashdeploy.data.images import LabelledImages
from dashdeploy.diffusion import guidance
from dashdeploy.diffusion.sampling import generate, plan
from dashdeploy.metrics import frechet, kernel
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
        images: of each job at the first sampling seed, (N, C, H, W) uint8.
        labels: (N,) int64 of the images.
        num_reference: number of real images.
        reused: models whose images were there already, made with the same weights, seed and settings.
    """

    rows: dict[Job, QualityRow]
    images: dict[Job, torch.Tensor]
    labels: torch.Tensor
    num_reference: int
    reused: tuple[str, ...]


@dataclass(frozen=True)
class Reference:
    """The real images that samples are compared with: features (M, D), labels (M,), and the names of the classes."""

    features: Features
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    statistics: frechet.Statistics


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
    config, drawn_with = recipe.bench.quality, sampling_seeds(recipe)
    train, _ = data.split(recipe.data.holdout)
    real, labels = reference(train, extractor) if extractor else None, class_labels(config.num_images, train)
    rows: dict[Job, QualityRow] = {}
    images: dict[Job, torch.Tensor] = {}
    of_teacher: dict[str, list[Features]] = {}
    reused = []
    calls = -(-config.num_images // config.batch_size) * recipe.sampling.num_inference_steps
    with progress("quality", total=len(wanted) * len(drawn_with) * calls) as advance:
        for (name, label), scale in wanted.items():
            model = models[name]
            run = plan(recipe.sampling, model.denoiser.interface.schedule.num_train_timesteps, scale=scale)
            shape = (config.num_images, *model.denoiser.interface.image_shape)
            sets = []
            for seed in drawn_with:
                key = samples.key(model.sha256, run, labels=labels, seed=seed)
                drawn = samples.load([folders[name] / samples.FOLDER, cache], key, shape=shape)
                if drawn is not None:
                    reused.append(name)
                    advance(calls)
                else:
                    drawn = sample(
                        model, scale, config, recipe.sampling, labels=labels, seed=seed, on_step=lambda _: advance(1)
                    )
                    samples.save(cache, key, drawn)
                sets.append(drawn)
            images[name, label] = sets[0]
            if extractor is None or real is None:
                continue
            teacher = of_teacher.get(label) if name != TEACHER else None
            row, features = score(name, scale, sets, labels, real, teacher, extractor, config, seeds=drawn_with)
            if name == TEACHER:
                of_teacher[label] = features
            rows[name, label] = row
    num_reference = 0 if real is None else len(real.features)
    return Measured(rows, images, labels, num_reference, tuple(dict.fromkeys(reused)))


def sampling_seeds(recipe: Recipe) -> tuple[int, ...]:
    """The seeds of the noise: bench.seed, and numbers derived from it."""
    first = recipe.bench.seed
    return (first, *(seeds.derive(first, "sampling", i) for i in range(1, recipe.bench.quality.seeds)))


def class_labels(num_images: int, data: LabelledImages) -> torch.Tensor:
    """(N,) int64 in the proportions of the data's classes, which every prefix follows as closely as it can.

    The counts are rounded by the largest remainder; of equal ones the lower class comes first. FID compares with the
    data, and other proportions would count as a distance.
    """
    counts = np.bincount(data.labels, minlength=data.num_classes)
    exact = num_images * counts / counts.sum()
    whole = np.floor(exact).astype(np.int64)
    rest = np.argsort(-(exact - whole), kind="stable")[: num_images - whole.sum()]
    whole[rest] += 1
    labels = np.repeat(np.arange(data.num_classes), whole)
    # Image j of the n of a class stands at (j + ½)/n.
    places = np.concatenate([(np.arange(n) + 0.5) / n for n in whole if n])
    return torch.from_numpy(labels[np.lexsort((labels, places))])


def reference(data: LabelledImages, extractor: Extractor) -> Reference:
    """The real images that samples are compared with."""
    features, _ = extractor(torch.from_numpy(data.images))
    return Reference(features, data.labels, data.classes, frechet.statistics(features))


def sample(
    model: Model,
    scale: Guidance,
    config: Quality,
    sampling: Sampling,
    *,
    labels: torch.Tensor,
    seed: int,
    on_step: Callable[[int], None] | None = None,
) -> torch.Tensor:
    """uint8 images of the labels (N,), from the same noise for every model and guidance."""
    interface = model.denoiser.interface
    return generate(
        model.sample,
        interface,
        plan(sampling, interface.schedule.num_train_timesteps, scale=scale),
        labels=labels,
        seed=seed,
        batch_size=config.batch_size,
        device=model.device,
        on_step=on_step,
    )


def score(
    name: str,
    scale: Guidance,
    sets: Sequence[torch.Tensor],
    labels: torch.Tensor,
    real: Reference,
    teacher: Sequence[Features] | None,
    extractor: Extractor,
    config: Quality,
    *,
    seeds: Sequence[int],
) -> tuple[QualityRow, list[Features]]:
    """The row of one model's images at one guidance, and their features (N, D) by sampling seed.

    Args:
        sets: by sampling seed, (N, C, H, W) uint8 of the labels (N,).
        teacher: features of the teacher's images at this guidance, from the same noise, by sampling seed; None: there
            are none to compare with.
        seeds: of the sets; the first is also that of the resampling.
    """
    extracted = [extractor(images) for images in sets]
    features, strata = [found for found, _ in extracted], labels.numpy()
    judges = extractor.classes == real.classes
    accuracies = [
        float((found == strata).mean()) if judges and found is not None else float("nan") for _, found in extracted
    ]

    def fid(
        some: Sequence[Features], to: frechet.Statistics | Sequence[Features], resamples: int = config.bootstrap
    ) -> Estimate:
        return _estimate(frechet.fid(some, to, resamples=resamples, seed=seeds[0], strata=strata))

    def kid(some: Sequence[Features]) -> Estimate:
        of_all = np.tile(strata, len(some))
        return _estimate(
            kernel.kid(np.concatenate(some), real.features, seed=seeds[0], strata=of_all, reference_strata=real.labels)
        )

    kids = [kid([one]) for one in features]
    by_seed = [
        SeedFigures(
            seed=seed,
            fid=fid([one], real.statistics, 0).value,
            kid=kids[i].value,
            fid_to_teacher=None if teacher is None else fid([one], [teacher[i]], 0).value,
            accuracy=accuracies[i],
        )
        for i, (seed, one) in enumerate(zip(seeds, features, strict=True))
    ]
    row = QualityRow(
        model=name,
        guidance=guidance.label(scale),
        w=float(scale) if isinstance(scale, int | float) else None,
        fid=fid(features, real.statistics),
        kid=kids[0] if len(kids) == 1 else kid(features),
        fid_to_teacher=None if teacher is None else fid(features, teacher),
        accuracy=float(np.mean(accuracies)),
        by_seed=tuple(by_seed),
    )
    return row, features


def _estimate(distance: frechet.Estimate) -> Estimate:
    return Estimate(value=distance.value, low=distance.low, high=distance.high)
