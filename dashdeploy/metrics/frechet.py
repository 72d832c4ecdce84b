"""Fréchet distance between two sets of features, with its 95 % confidence interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Features = NDArray[np.floating]


@dataclass(frozen=True)
class Statistics:
    """Mean (D,) and covariance (D, D) of N features, float64, N − 1 in the denominator."""

    mean: Array
    covariance: Array
    num: int


@dataclass(frozen=True)
class Estimate:
    """A figure, and the bounds of its 95 % confidence interval (NaN where there is none)."""

    value: float
    low: float
    high: float


def statistics(features: Features) -> Statistics:
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
    sets: Sequence[Features],
    reference: Statistics | Sequence[Features],
    *,
    resamples: int,
    seed: int,
    strata: NDArray[np.integer] | None = None,
) -> Estimate:
    """Mean Fréchet distance of each set (N, D) to a reference, with a bootstrap over the N images.

    FID is biased upwards, by more the fewer the images are. The value and its interval are of the expectation at this
    N: compare figures of one N only. A resample repeats images, which adds to that bias, so the resamples are recentred
    on the value.

    Args:
        sets: independent draws, all of the same labels.
        reference: statistics that stay as they are; or, for each set, features (N, D) whose image i was drawn from the
            same noise and label as image i of the set. Such pairs are resampled together, because what the noise does
            to both is no difference between them.
        resamples: of the bootstrap. 0: no confidence interval.
        strata: (N,) classes. Images are resampled within their class, because the labels of samples are fixed.
            None: all together.
    """
    others: Sequence[Features | Statistics]
    others = [reference] * len(sets) if isinstance(reference, Statistics) else reference
    value = float(np.mean([_distance(a, b) for a, b in zip(sets, others, strict=True)]))
    if resamples == 0:
        return Estimate(value, float("nan"), float("nan"))
    rng = np.random.default_rng([seed, 0xB007])
    labels = np.zeros(len(sets[0]), int) if strata is None else strata
    groups = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    draws = np.zeros(resamples)
    for i in range(resamples):
        for a, b in zip(sets, others, strict=True):
            rows = np.concatenate([group[rng.integers(0, len(group), len(group))] for group in groups])
            draws[i] += _distance(a[rows], b if isinstance(b, Statistics) else b[rows]) / len(sets)
    spread = np.quantile(draws - draws.mean(), [0.025, 0.975])
    return Estimate(value, float(max(0.0, value + spread[0])), float(value + spread[1]))


def _distance(features: Features, reference: Features | Statistics) -> float:
    other = reference if isinstance(reference, Statistics) else statistics(reference)
    return frechet_distance(statistics(features), other)
