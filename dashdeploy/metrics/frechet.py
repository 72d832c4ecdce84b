"""Fréchet and kernel distances between two sets of features, each with its 95 % confidence interval."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Statistics:
    """Mean (D,) and covariance (D, D) of N features, float64, N − 1 in the denominator."""

    mean: Array
    covariance: Array
    num: int


@dataclass(frozen=True)
class Estimate:
    """A figure and the bounds of its 95 % confidence interval (NaN without resampling)."""

    value: float
    low: float
    high: float


def statistics(features: NDArray[np.floating]) -> Statistics:
    """Statistics of features (N, D); N ≥ 2."""
    values = features.astype(np.float64)
    return Statistics(values.mean(0), np.atleast_2d(np.cov(values, rowvar=False)), len(values))


def frechet_distance(a: Statistics, b: Statistics) -> float:
    """‖μ_a − μ_b‖² + tr(Σ_a + Σ_b − 2·(Σ_a Σ_b)^½)  (Heusel et al. 2017).

    The trace of the root comes from the eigenvalues of Σ_a^½ Σ_b Σ_a^½. This matrix is symmetric and positive
    semi-definite, so that no complex part can appear.
    """
    values, vectors = np.linalg.eigh(a.covariance)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    cross = np.linalg.eigvalsh(root @ b.covariance @ root)
    trace = np.trace(a.covariance) + np.trace(b.covariance) - 2 * np.sqrt(np.clip(cross, 0, None)).sum()
    return float(max(0.0, ((a.mean - b.mean) ** 2).sum() + trace))


def fid(
    features: NDArray[np.floating],
    reference: Statistics,
    *,
    resamples: int,
    seed: int,
    strata: NDArray[np.integer] | None = None,
) -> Estimate:
    """Fréchet distance of features (N, D) to a reference, with a bootstrap over the N images.

    A resample repeats images, which biases every resampled FID upwards, so the resamples are recentred on the value.

    Args:
        resamples: of the bootstrap. 0: no confidence interval.
        strata: (N,) classes. Images are resampled within their class, because the labels of samples are fixed.
            None: all together.
    """
    value = frechet_distance(statistics(features), reference)
    if resamples == 0:
        return Estimate(value, float("nan"), float("nan"))
    rng = np.random.default_rng([seed, 0xB007])
    groups = [np.arange(len(features))] if strata is None else [np.flatnonzero(strata == s) for s in np.unique(strata)]
    draws = np.empty(resamples)
    for i in range(resamples):
        rows = np.concatenate([group[rng.integers(0, len(group), len(group))] for group in groups])
        draws[i] = frechet_distance(statistics(features[rows]), reference)
    spread = np.quantile(draws - draws.mean(), [0.025, 0.975])
    return Estimate(value, float(max(0.0, value + spread[0])), float(value + spread[1]))


def kid(
    features: NDArray[np.floating],
    reference: NDArray[np.floating],
    *,
    seed: int,
    subset: int = 500,
    subsets: int = 50,
    strata: NDArray[np.integer] | None = None,
) -> Estimate:
    """Kernel inception distance (Bińkowski et al. 2018): unbiased MMD², kernel (x·y/D + 1)³, mean over subsets.

    It is unbiased for independent draws, and may be slightly below zero. Images of exactly balanced labels are not
    independent: two of them share a class less often than two draws would, which biases the estimate downwards. With
    `strata` each subset therefore draws its class counts at random first.

    The confidence interval is ± 1.96 standard errors over the subsets.

    Args:
        strata: (N,) classes of the features. None: independent draws.
    """
    rng = np.random.default_rng([seed, 0x41D])
    size = min(subset, len(features), len(reference))
    groups = [np.arange(len(features))] if strata is None else [np.flatnonzero(strata == s) for s in np.unique(strata)]
    values = np.empty(subsets)
    for i in range(subsets):
        counts = rng.multinomial(size, [1 / len(groups)] * len(groups))
        rows = np.concatenate(
            [rng.choice(g, min(n, len(g)), replace=False) for g, n in zip(groups, counts, strict=True)]
        )
        other = rng.choice(len(reference), size, replace=False)
        values[i] = _mmd2(features[rows].astype(np.float64), reference[other].astype(np.float64))
    error = 1.96 * values.std(ddof=1) / np.sqrt(subsets)
    return Estimate(float(values.mean()), float(values.mean() - error), float(values.mean() + error))


def _mmd2(x: Array, y: Array) -> float:
    n, m, d = len(x), len(y), x.shape[1]
    k_xx, k_yy, k_xy = ((a @ b.T / d + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    return float(
        (k_xx.sum() - np.trace(k_xx)) / (n * (n - 1)) + (k_yy.sum() - np.trace(k_yy)) / (m * (m - 1)) - 2 * k_xy.mean()
    )
