"""Kernel inception distance between two sets of labelled features, with its 95 % confidence interval."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dashdeploy.metrics.frechet import Array, Estimate, Features

MAX_IMAGES = 5_000
"""Of each set; of a larger one so many are drawn, because time grows with the square."""
ROWS = 1024
"""Rows of a kernel matrix that are held at a time."""


@dataclass(frozen=True)
class _Group:
    """Images of one class in both sets, at least two in each, and the share of the class."""

    x: NDArray[np.intp]
    y: NDArray[np.intp]
    share: float


def kid(
    features: Features,
    reference: Features,
    *,
    seed: int,
    strata: NDArray[np.integer] | None = None,
    reference_strata: NDArray[np.integer] | None = None,
) -> Estimate:
    """Unbiased MMD² with the kernel (x·y/D + 1)³ (Bińkowski et al. 2018), for images of given labels.

    Two images of given labels share a class more or less often than two random draws do, and that alone moves the usual
    estimate. So a mean is taken over each pair of classes, and the means are weighed by the classes' shares π in the
    reference: Σ_c Σ_c' π_c π_c' (k̄_cc'(x, x) + k̄_cc'(y, y) − 2 k̄_cc'(x, y)), where no image is paired with itself. The
    expectation is 0 for equal distributions, and does not depend on the number of images. An estimate may be below 0.

    The confidence interval is ± 1.96 standard errors, of the images and of the reference. The errors come from each
    image's share in the estimate (Hoeffding's projection), and are up to √2 times too large where the two
    distributions are equal.

    Args:
        features, reference: (N, D) and (M, D), at least two each.
        seed: of the draw from a set of more than MAX_IMAGES.
        strata, reference_strata: (N,) and (M,) classes. Classes with fewer than two images in either set are taken
            together. None: images are taken as independent draws.
    """
    rng = np.random.default_rng([seed, 0x41D])
    x_rows, y_rows = (some_rows(rng, len(one), MAX_IMAGES) for one in (features, reference))
    x, y = features[x_rows].astype(np.float64), reference[y_rows].astype(np.float64)
    if strata is None or reference_strata is None:
        groups = [_Group(np.arange(len(x)), np.arange(len(y)), 1.0)]
    else:
        groups = _groups(strata[x_rows], reference_strata[y_rows])
    in_x, in_y = [g.x for g in groups], [g.y for g in groups]
    shares = np.array([g.share for g in groups])
    # What each image adds: its mean kernel value with the same set, less that with the other one.
    from_x = _means(x, x, in_x, in_x) @ shares - _means(x, y, in_x, in_y) @ shares
    from_y = _means(y, y, in_y, in_y) @ shares - _means(y, x, in_y, in_x) @ shares
    value = sum(g.share * (from_x[g.x].mean() + from_y[g.y].mean()) for g in groups)
    variance = sum(
        (2 * g.share) ** 2 * (from_x[g.x].var(ddof=1) / len(g.x) + from_y[g.y].var(ddof=1) / len(g.y)) for g in groups
    )
    error = 1.96 * float(np.sqrt(variance))
    return Estimate(float(value), float(value) - error, float(value) + error)


def some_rows(rng: np.random.Generator, num: int, most: int) -> NDArray[np.intp]:
    """All rows of 0..num − 1, ascending; of more than `most`, so many that are drawn."""
    return np.arange(num) if num <= most else np.sort(rng.choice(num, most, replace=False))


def _groups(x_labels: NDArray[np.integer], y_labels: NDArray[np.integer]) -> list[_Group]:
    """A group for each class that has two images in both sets; the others are one group, or join the smallest."""
    classes = np.union1d(x_labels, y_labels)
    rows = [(np.flatnonzero(x_labels == c), np.flatnonzero(y_labels == c)) for c in classes]
    groups = [pair for pair in rows if min(map(len, pair)) >= 2]
    if rest := [pair for pair in rows if min(map(len, pair)) < 2]:
        joined = _join(rest)
        if groups and min(map(len, joined)) < 2:
            smallest = min(range(len(groups)), key=lambda i: min(map(len, groups[i])))
            joined = _join([joined, groups.pop(smallest)])
        groups.append(joined)
    return [_Group(x, y, len(y) / len(y_labels)) for x, y in groups]


def _join(pairs: list[tuple[NDArray[np.intp], NDArray[np.intp]]]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    x, y = (np.concatenate(rows) for rows in zip(*pairs, strict=True))
    return x, y


def _means(x: Array, y: Array, in_x: list[NDArray[np.intp]], in_y: list[NDArray[np.intp]]) -> Array:
    """(N, G): the mean of the kernel of each row of x with the rows of each group of y; x is y: without itself."""
    same, counts = x is y, np.array([len(rows) for rows in in_y], np.float64)
    belongs = np.zeros((len(y), len(in_y)))
    for place, rows in enumerate(in_y):
        belongs[rows, place] = 1
    sums = np.empty((len(x), len(in_y)))
    for start in range(0, len(x), ROWS):
        part = slice(start, start + ROWS)
        kernel = (x[part] @ y.T / x.shape[1] + 1) ** 3
        if same:
            kernel[np.arange(len(kernel)), np.arange(start, start + len(kernel))] = 0
        sums[part] = kernel @ belongs
    divisors = np.tile(counts, (len(x), 1))
    if same:
        for place, rows in enumerate(in_x):
            divisors[rows, place] -= 1
    return sums / divisors
