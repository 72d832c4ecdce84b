"""What samples are compared with: the recipe's own images, or a file of images or of published statistics."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dashdeploy import stages
from dashdeploy.data.images import LabelledImages
from dashdeploy.errors import UserError, reading
from dashdeploy.metrics import frechet
from dashdeploy.metrics.features import Extractor, dimension
from dashdeploy.metrics.neighbours import Surroundings, surroundings

IMAGES, LABELS, MEAN, COVARIANCE = "arr_0", "arr_1", "mu", "sigma"
"""Arrays of a file: images and labels as ADM's evaluation suite has them, or statistics as its and clean-fid's."""
EXPECTED = "expected arr_0 (N, H, W, C) uint8 and perhaps arr_1 (N,) labels, or mu (D,) and sigma (D, D), or both"
SYMMETRIC = 1e-3
"""Largest asymmetry of a covariance, relative to its largest value."""


@dataclass(frozen=True)
class Reference:
    """Real images as samples are compared with them.

    Attributes:
        statistics: for FID.
        features: (M, D), for KID and the nearest neighbours; None: only statistics were given.
        labels: (M,), of the features; None: not known.
        classes: the names of the data's classes.
        file, sha256: of the file; None: the recipe's own images.
        published: whether the statistics are the file's, and not those of `features`.
        note: what a reader of the figures should know; None: nothing.
    """

    statistics: frechet.Statistics
    features: NDArray[np.float32] | None
    labels: NDArray[np.int64] | None
    classes: tuple[str, ...]
    file: str | None = None
    sha256: str | None = None
    published: bool = False
    note: str | None = None

    @property
    def num(self) -> int:
        """Number of images; 0: not known of statistics."""
        return 0 if self.features is None else len(self.features)

    @cached_property
    def surroundings(self) -> Surroundings | None:
        """What precision, recall, density and coverage compare with; the same images for every seed of a benchmark."""
        return None if self.features is None else surroundings(self.features, seed=0)


def of_images(data: LabelledImages, extractor: Extractor) -> Reference:
    """A recipe's own images."""
    features, _ = extractor(torch.from_numpy(data.images))
    return Reference(frechet.statistics(features), features, data.labels, data.classes)


def of_file(path: Path, data: LabelledImages, extractor: Extractor) -> Reference:
    """The images or statistics of an .npz file, in the extractor's features.

    ADM's own batches hold both: the statistics of a whole data set, and some of its images. FID is then against the
    statistics, as in its evaluation suite, and what needs images takes those; statistics of another number of features
    are left out, and the note says so.

    Args:
        data: the recipe's images, whose shape and classes the file's must be.

    Raises:
        UserError: see `read`; or no images, and statistics of another number of features.
    """
    held = read(path, data)
    file, sha256 = path.name, stages.file_sha256(path)
    one, _ = extractor(torch.zeros((1, *data.image_shape), dtype=torch.uint8))
    width = one.shape[1]
    refuse_width(path, held, width, name=extractor.name)
    statistics = note = None
    if MEAN in held and len(held[MEAN]) == width:
        statistics = frechet.Statistics(held[MEAN].astype(np.float64), held[COVARIANCE].astype(np.float64), 0)
    elif MEAN in held:
        note = (
            f"The statistics in {file} are of {len(held[MEAN])} features, and {extractor.name} has {width}: FID is "
            "against the images in it."
        )
    if statistics is not None and IMAGES not in held:
        return Reference(statistics, None, None, data.classes, file, sha256, published=True)
    labels = np.zeros(len(held[IMAGES]), np.int64)
    found = of_images(replace(data, images=held[IMAGES], labels=labels, identity=None), extractor)
    return replace(
        found,
        statistics=statistics or found.statistics,
        labels=held.get(LABELS),
        file=file,
        sha256=sha256,
        published=statistics is not None,
        note=note,
    )


def refuse_width(path: Path, held: dict[str, NDArray[Any]], width: int, *, name: str) -> None:
    """Refuse statistics of another number of features than a network has, where there are no images beside them.

    Args:
        held: see `read`; images have no such number.
        name: the network's.

    Raises:
        UserError: they are.
    """
    if IMAGES not in held and len(held[MEAN]) != width:
        raise UserError(
            f"{path}: statistics of {len(held[MEAN])} features, and the network {name} has {width}. Take those "
            "of this network, or bench.quality.features: inception (2048) with its weights."
        )


def refuse(path: Path, data: LabelledImages, *, features: str) -> None:
    """What `of_file` will refuse, told without a network; see `read` and `refuse_width`."""
    held = read(path, data)
    name = data.name if features == "auto" else features
    if (width := dimension(name)) is not None:
        refuse_width(path, held, width, name=name)


def read(path: Path, data: LabelledImages) -> dict[str, NDArray[Any]]:
    """The arrays of a reference file: images (N, C, H, W) uint8 and labels, or mean and covariance, or all of these.

    Raises:
        UserError: it is missing or damaged, has neither, or images or labels that are not the data's.
    """
    if not path.is_file():
        raise UserError(f"bench.quality.reference {path}: no such file; {EXPECTED}")
    if not zipfile.is_zipfile(path):
        raise UserError(f"bench.quality.reference {path}: not a whole .npz file; {EXPECTED}")
    with reading(path, ".npz file without pickled objects"), np.load(path, allow_pickle=False) as file:
        names = {name for pair in ((IMAGES, LABELS), (MEAN, COVARIANCE)) if pair[0] in file.files for name in pair}
        held = {name: file[name] for name in names if name in file.files}
    if not {IMAGES, MEAN} & held.keys() or (MEAN in held and COVARIANCE not in held):
        raise UserError(f"{path}: has no {IMAGES}, and no {MEAN} with {COVARIANCE}; {EXPECTED}")
    if MEAN in held:
        _check_statistics(path, held[MEAN], held[COVARIANCE])
    return _images(path, held, data) if IMAGES in held else held


def _check_statistics(path: Path, mean: NDArray[Any], covariance: NDArray[Any]) -> None:
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)) or not len(mean):
        raise UserError(f"{path}: {MEAN} is {mean.shape} and {COVARIANCE} {covariance.shape}; {EXPECTED}")
    if mean.dtype.kind != "f" or covariance.dtype.kind != "f":
        raise UserError(f"{path}: {MEAN} is {mean.dtype} and {COVARIANCE} {covariance.dtype}; expected real numbers")
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise UserError(f"{path}: holds NaN or Inf")
    scale = float(np.abs(covariance).max()) or 1.0
    if float(np.abs(covariance - covariance.T).max()) > SYMMETRIC * scale or float(covariance.diagonal().min()) < 0:
        raise UserError(
            f"{path}: {COVARIANCE} is no covariance: it must be symmetric, and not negative on its diagonal"
        )


def _images(path: Path, held: dict[str, NDArray[Any]], data: LabelledImages) -> dict[str, NDArray[Any]]:
    images, labels = held[IMAGES], held.get(LABELS)
    channels, height, width = data.image_shape
    if images.dtype != np.uint8 or images.ndim != 4 or len(images) < 2:
        raise UserError(f"{path}: {IMAGES} is {images.shape} {images.dtype}; {EXPECTED}, at least two images")
    if images.shape[1:] != (height, width, channels):
        raise UserError(
            f"{path}: its images are {images.shape[1:]} (H, W, C), and the recipe's {(height, width, channels)}. FID "
            "compares images of one size: make the file from images of this size."
        )
    if labels is not None:
        if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
            raise UserError(f"{path}: {LABELS} is {labels.shape} {labels.dtype} for {len(images)} images; {EXPECTED}")
        if labels.min() < 0 or labels.max() >= data.num_classes:
            raise UserError(
                f"{path}: {LABELS} go from {labels.min()} to {labels.max()}; the data have {data.num_classes} classes"
            )
        held[LABELS] = labels.astype(np.int64)
    held[IMAGES] = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    return held
