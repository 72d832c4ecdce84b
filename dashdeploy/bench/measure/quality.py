"""Sample quality over guidance: FID and KID against the data and the teacher's own samples, classifier accuracy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from dashdeploy.bench.record.parts import Interval, QualityRow
from dashdeploy.data.images import LabelledImages
from dashdeploy.diffusion import guidance
from dashdeploy.diffusion.sampling import generate, plan
from dashdeploy.metrics import frechet
from dashdeploy.metrics.features import Extractor
from dashdeploy.recipe.schema import Guidance, Quality, Sampling
from dashdeploy.runtime.model import Model


@dataclass(frozen=True)
class Reference:
    """Features of the training images that samples are held against."""

    features: NDArray[np.float32]
    num: int


def balanced_labels(num_images: int, num_classes: int) -> torch.Tensor:
    """(N,) int64: classes in turn, so that every prefix is as balanced as can be."""
    return torch.arange(num_images) % num_classes


def reference(data: LabelledImages, extractor: Extractor) -> Reference:
    """Features of all training images."""
    features, _ = extractor(torch.from_numpy(data.images))
    return Reference(features, len(features))


def sample(
    model: Model,
    scale: Guidance,
    config: Quality,
    sampling: Sampling,
    *,
    seed: int,
    on_step: Callable[[int], None] | None = None,
) -> torch.Tensor:
    """config.num_images uint8 images of balanced classes; the same noise for every model and guidance."""
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
    data: Reference,
    teacher: NDArray[np.float32] | None,
    extractor: Extractor,
    config: Quality,
    *,
    num_classes: int,
    seed: int,
) -> tuple[QualityRow, NDArray[np.float32]]:
    """The row of one model's images at one guidance, and their features; `teacher`: its features at this guidance."""
    features, predicted = extractor(images)
    labels = balanced_labels(len(images), num_classes).numpy()
    accuracy = float("nan") if predicted is None else float((predicted == labels).mean())

    def distance(to: NDArray[np.float32]) -> Interval:
        found = frechet.fid(features, frechet.statistics(to), resamples=config.bootstrap, seed=seed, strata=labels)
        return _interval(found)

    row = QualityRow(
        model=name,
        guidance=guidance.label(scale),
        w=float(scale) if isinstance(scale, int | float) else None,
        fid=distance(data.features),
        kid=_interval(frechet.kid(features, data.features, seed=seed, strata=labels)),
        fid_to_teacher=None if teacher is None else distance(teacher),
        accuracy=accuracy,
    )
    return row, features


def _interval(found: frechet.Estimate) -> Interval:
    return Interval(**asdict(found))
