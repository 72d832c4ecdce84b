"""Sample quality over guidance: distances to real images and to the teacher's, and what a classifier makes of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dashdeploy import seeds
from dashdeploy.bench.measure import samples
from dashdeploy.bench.record.parts import Estimate, NeighbourFigures, QualityRow, SeedFigures
from dashdeploy.bench.record.record import STUDENT, TEACHER
from dashdeploy.data.images import LabelledImages
from dashdeploy.diffusion import guidance
from dashdeploy.diffusion.sampling import Plan, generate, plan
from dashdeploy.locate import expanded
from dashdeploy.metrics import frechet, kernel, reference
from dashdeploy.metrics.features import Extractor
from dashdeploy.metrics.gap import relative_error
from dashdeploy.metrics.neighbours import Neighbours, neighbours
from dashdeploy.metrics.reference import Reference
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
        reference: what they were compared with; None: they were not scored.
        reused: models whose images were there already, made with the same weights, seed and settings.
    """

    rows: dict[Job, QualityRow]
    images: dict[Job, torch.Tensor]
    labels: torch.Tensor
    reference: Reference | None
    reused: tuple[str, ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the rows should know."""
        of_reference = self.reference.note if self.reference is not None else None
        return (*([of_reference] if of_reference else []), *map(_reuse_note, self.reused))


def _reuse_note(name: str) -> str:
    return f"Images of the {name} had been drawn with the same weights, seed and settings, and were used again."


@dataclass(frozen=True)
class Drawn:
    """The images of one job, (N, C, H, W) uint8, and their features (N, D), by sampling seed."""

    images: Sequence[torch.Tensor]
    features: Sequence[Features]


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
    drawn_now: frozenset[str] = frozenset(),
) -> Measured:
    """Draw and score the images of every job; the teacher's jobs come first, for the distances to its images.

    Args:
        extractor: None: the images are drawn and not scored.
        folders: by model; images are also looked for in their subfolder `samples`.
        cache: where images are looked for and kept.
        drawn_now: keys of those in the cache that were drawn for this measurement.
    """
    config, drawn_with = recipe.bench.quality, sampling_seeds(recipe)
    train, _ = data.split(recipe.data.holdout)
    real, labels = _reference(config, train, extractor), class_labels(config.num_images, train)
    rows: dict[Job, QualityRow] = {}
    images: dict[Job, torch.Tensor] = {}
    of_teacher: dict[str, Drawn] = {}
    reused = []
    batches = -(-config.num_images // config.batch_size)
    steps = sum(len(plan_of(recipe, models[name], scale).timesteps) for (name, _), scale in wanted.items())
    with progress("quality", total=steps * len(drawn_with) * batches) as advance:
        for (name, label), scale in wanted.items():
            model = models[name]
            run = plan_of(recipe, model, scale)
            shape = (config.num_images, *model.denoiser.interface.drawn_shape)
            sets = []
            for seed in drawn_with:
                key = samples.key(model.sha256, run, labels=labels, seed=seed)
                drawn = samples.load([folders[name] / samples.FOLDER, cache], key, shape=shape)
                if drawn is not None:
                    reused += [] if key in drawn_now else [name]
                    advance(batches * len(run.timesteps))
                else:
                    drawn = sample(model, run, config, labels=labels, seed=seed, on_step=lambda _: advance(1))
                    samples.save(cache, key, drawn)
                sets.append(drawn)
            images[name, label] = sets[0]
            if extractor is None or real is None:
                continue
            teacher = of_teacher.get(label) if name != TEACHER else None
            row, scored = score(name, scale, sets, labels, real, teacher, extractor, config, seeds=drawn_with)
            if name == TEACHER:
                of_teacher[label] = scored
            rows[name, label] = row
    return Measured(rows, images, labels, real, tuple(dict.fromkeys(reused)))


def _reference(config: Quality, train: LabelledImages, extractor: Extractor | None) -> Reference | None:
    if extractor is None:
        return None
    if config.reference is not None:
        return reference.of_file(expanded(config.reference), train, extractor)
    return reference.of_images(train, extractor)


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


def sampling_of(recipe: Recipe, model: Model) -> Sampling:
    """How a model of a run is sampled: as `sampling` says, but the teacher of a few-step student, which takes
    `bench.teacher_steps` of DDIM.
    """
    few = bool(recipe.distill.objective.few_steps) and not model.denoiser.interface.grids
    changes = {
        "num_inference_steps": recipe.bench.teacher_steps,
        "clip_sample": not recipe.data.gives_latents,
        "solver": "ddim",
    }
    return recipe.sampling.model_copy(update=changes) if few else recipe.sampling


def plan_of(recipe: Recipe, model: Model, scale: Guidance | None = None) -> Plan:
    """The plan of a model's sampling, see `sampling_of`.

    Args:
        scale: in place of the recipe's guidance.
    """
    interface = model.denoiser.interface
    return plan(sampling_of(recipe, model), interface.schedule.num_train_timesteps, scale=scale, grids=interface.grids)


def sample(
    model: Model,
    run: Plan,
    config: Quality,
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
        run,
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
    teacher: Drawn | None,
    extractor: Extractor,
    config: Quality,
    *,
    seeds: Sequence[int],
) -> tuple[QualityRow, Drawn]:
    """The row of one model's images at one guidance, and what the rows of others are compared with.

    Args:
        sets: by sampling seed, (N, C, H, W) uint8 of the labels (N,).
        teacher: the teacher's images at this guidance, from the same noise; None: there are none to compare with.
        seeds: of the sets; the first is also that of the resampling.
    """
    extracted = [extractor(images) for images in sets]
    features, strata = [found for found, _ in extracted], labels.numpy()
    judges = extractor.classes == real.classes
    given = [found if judges else None for _, found in extracted]
    accuracies = [_mean(None if found is None else found.argmax(1) == strata) for found in given]
    confidences = [_mean(None if found is None else found[np.arange(len(strata)), strata]) for found in given]
    pixels, in_features = _to_teacher(Drawn(sets, features), teacher)

    def fid(
        some: Sequence[Features], to: frechet.Statistics | Sequence[Features], resamples: int = config.bootstrap
    ) -> Estimate:
        return _estimate(frechet.fid(some, to, resamples=resamples, seed=seeds[0], strata=strata))

    def kid(some: Sequence[Features]) -> Estimate:
        if real.features is None:
            return Estimate(value=math.nan, low=math.nan, high=math.nan)
        of_all = np.tile(strata, len(some))
        return _estimate(
            kernel.kid(np.concatenate(some), real.features, seed=seeds[0], strata=of_all, reference_strata=real.labels)
        )

    kids = [kid([one]) for one in features]
    around = real.surroundings
    near = [] if around is None else [neighbours(one, around, seed=seeds[0]) for one in features]
    by_seed = [
        SeedFigures(
            seed=seed,
            fid=fid([one], real.statistics, 0).value,
            kid=kids[i].value,
            fid_to_teacher=None if teacher is None else fid([one], [teacher.features[i]], 0).value,
            accuracy=accuracies[i],
            pixel_distance=pixels[i],
            feature_distance=in_features[i],
            confidence=confidences[i],
            neighbours=NeighbourFigures(**asdict(near[i])) if near else None,
        )
        for i, (seed, one) in enumerate(zip(seeds, features, strict=True))
    ]
    row = QualityRow(
        model=name,
        guidance=guidance.label(scale),
        w=float(scale) if isinstance(scale, int | float) else None,
        fid=fid(features, real.statistics),
        kid=kids[0] if len(kids) == 1 else kid(features),
        fid_to_teacher=None if teacher is None else fid(features, teacher.features),
        accuracy=float(np.mean(accuracies)),
        by_seed=tuple(by_seed),
        pixel_distance=None if teacher is None else _mean(pixels),
        feature_distance=None if teacher is None else _mean(in_features),
        confidence=float(np.mean(confidences)),
        neighbours=_mean_neighbours(near) if near else None,
    )
    return row, Drawn(sets, features)


def _mean_neighbours(near: Sequence[Neighbours]) -> NeighbourFigures:
    return NeighbourFigures(
        **{field.name: _mean([getattr(one, field.name) for one in near]) for field in fields(Neighbours)}
    )


def _mean(values: Any) -> float:
    """NaN of None."""
    return float("nan") if values is None else float(np.mean(values))


def _to_teacher(drawn: Drawn, teacher: Drawn | None) -> tuple[list[float | None], list[float | None]]:
    """(root mean square of a pixel, relative in features) of the distance to the teacher's images, by sampling seed."""
    if teacher is None:
        return [None] * len(drawn.images), [None] * len(drawn.images)
    pairs = zip(drawn.images, teacher.images, strict=True)
    pixels = [float(((a.double() - b.double()) / 127.5).square().mean().sqrt()) for a, b in pairs]
    both = zip(drawn.features, teacher.features, strict=True)
    return [*pixels], [relative_error(torch.from_numpy(a), torch.from_numpy(b)) for a, b in both]


def _estimate(distance: frechet.Estimate) -> Estimate:
    return Estimate(value=distance.value, low=distance.low, high=distance.high)
