"""Precision, recall, density and coverage of a set of features, from the nearest neighbours of each image."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dashdeploy.metrics.frechet import Array, Features
from dashdeploy.metrics.kernel import ROWS, some_rows

MANIFOLD_K, DENSITY_K = 3, 5
"""Which neighbour bounds an image's surroundings, for precision and recall, density and coverage: as in the papers."""
MAX_IMAGES = 10_000
"""Of each set; of a larger one so many are drawn, because time grows with the square."""


@dataclass(frozen=True)
class Neighbours:
    """What the surroundings of an image are: all within the distance of its k-th neighbour of its own set.

    Attributes:
        precision: share of the images that lie in the surroundings of a real one (Kynkäänniemi et al. 2019,
            arXiv:1904.06991), in [0, 1].
        recall: share of the real images that lie in the surroundings of one of the images; [0, 1].
        density: number of real images in whose surroundings an image lies, over k; the mean over the images (Naeem et
            al. 2020, arXiv:2002.09797). Its expectation is 1 for equal distributions, and it may be above.
        coverage: share of the real images with one of the images in their surroundings; [0, 1].
    """

    precision: float
    recall: float
    density: float
    coverage: float


@dataclass(frozen=True)
class Surroundings:
    """Real images with what bounds their surroundings, which serves every set that is compared with them.

    Attributes:
        features: (M, D) float64.
        radii: (M, 2) float64, the squared distances to the neighbours MANIFOLD_K and DENSITY_K; empty of too few.
    """

    features: Array
    radii: Array


def surroundings(reference: Features, *, seed: int) -> Surroundings:
    """Of real images' features (M, D).

    Args:
        seed: of the draw from more than MAX_IMAGES.
    """
    real = _some(reference, seed)
    return Surroundings(real, _radii(real, (MANIFOLD_K, DENSITY_K)) if len(real) > DENSITY_K else np.empty((0, 2)))


def neighbours(features: Features, reference: Surroundings, *, seed: int) -> Neighbours:
    """The four figures of images' features (N, D) against real images (M, D).

    They depend on N and M: compare figures of the same numbers only. NaN where either is DENSITY_K or less.

    Args:
        seed: of the draw from a set of more than MAX_IMAGES.
    """
    x, real = _some(features, seed), reference.features
    if min(len(x), len(real)) <= DENSITY_K:
        return Neighbours(*[float("nan")] * 4)
    radius_of_x = _radii(x, (MANIFOLD_K,))[:, 0]
    manifold, wide = reference.radii.T
    in_manifold, in_surroundings = np.zeros(len(x), bool), np.zeros(len(x))
    recalled, covered = np.zeros(len(real), bool), np.zeros(len(real), bool)
    for rows, squares in _squares(x, real):
        in_manifold[rows] = (squares <= manifold).any(1)
        within = squares <= wide
        in_surroundings[rows] = within.sum(1)
        covered |= within.any(0)
        recalled |= (squares <= radius_of_x[rows, None]).any(0)
    return Neighbours(
        float(in_manifold.mean()),
        float(recalled.mean()),
        float(in_surroundings.mean() / DENSITY_K),
        float(covered.mean()),
    )


def _some(features: Features, seed: int) -> Array:
    rng = np.random.default_rng([seed, 0x9EA2])
    return features[some_rows(rng, len(features), MAX_IMAGES)].astype(np.float64)


def _radii(x: Array, ks: tuple[int, ...]) -> Array:
    """(N, len(ks)): the squared distance of each row to its k-th nearest other one."""
    found = np.empty((len(x), len(ks)))
    for rows, squares in _squares(x, x):
        squares[np.arange(len(squares)), np.arange(rows.start, rows.start + len(squares))] = np.inf
        found[rows] = np.partition(squares, [k - 1 for k in ks], axis=1)[:, [k - 1 for k in ks]]
    return found


def _squares(x: Array, y: Array) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    """(rows of x, their squared distances to all rows of y), part by part.

    An expanded square is off by rounding, in both of two distances that are compared alike.
    """
    of_y = np.square(y).sum(1)
    for start in range(0, len(x), ROWS):
        part = x[start : start + ROWS]
        yield slice(start, start + len(part)), np.square(part).sum(1)[:, None] + of_y - 2 * part @ y.T
