"""Precision, recall, density and coverage, against loops over all pairs and against what is known of them."""

from __future__ import annotations

import numpy as np
import pytest

from dashdeploy.metrics import neighbours as module
from dashdeploy.metrics.neighbours import DENSITY_K, MANIFOLD_K, Neighbours, surroundings


def normal(seed: int, num: int, size: int = 8, shift: float = 0.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((num, size)) + shift).astype(np.float32)


def neighbours(x: np.ndarray, real: np.ndarray, *, seed: int) -> Neighbours:
    return module.neighbours(x, surroundings(real, seed=seed), seed=seed)


def by_loops(x: np.ndarray, real: np.ndarray) -> tuple[float, float, float, float]:
    """The definitions, pair by pair."""

    def radius(points: np.ndarray, i: int, k: int) -> float:
        others = sorted(np.linalg.norm(points[i] - points[j]) for j in range(len(points)) if j != i)
        return float(others[k - 1])

    x, real = x.astype(np.float64), real.astype(np.float64)
    manifold = [radius(real, i, MANIFOLD_K) for i in range(len(real))]
    wide = [radius(real, i, DENSITY_K) for i in range(len(real))]
    own = [radius(x, j, MANIFOLD_K) for j in range(len(x))]
    far = np.array([[np.linalg.norm(a - b) for b in real] for a in x])
    precision = np.mean([any(far[j, i] <= manifold[i] for i in range(len(real))) for j in range(len(x))])
    recall = np.mean([any(far[j, i] <= own[j] for j in range(len(x))) for i in range(len(real))])
    density = np.mean([sum(far[j, i] <= wide[i] for i in range(len(real))) / DENSITY_K for j in range(len(x))])
    coverage = np.mean([min(far[:, i]) <= wide[i] for i in range(len(real))])
    return float(precision), float(recall), float(density), float(coverage)


@pytest.mark.parametrize("shift", [0.0, 0.7, 5.0])
def test_they_are_what_their_papers_define(shift: float) -> None:
    x, real = normal(0, 60, shift=shift), normal(1, 45)
    found = neighbours(x, real, seed=0)
    assert (found.precision, found.recall, found.density, found.coverage) == pytest.approx(by_loops(x, real), abs=1e-12)


def test_parts_of_the_distances_are_joined_as_if_they_were_one(monkeypatch: pytest.MonkeyPatch) -> None:
    x, real = normal(0, 100, shift=0.3), normal(1, 130)
    whole = neighbours(x, real, seed=0)
    monkeypatch.setattr(module, "ROWS", 7)
    assert neighbours(x, real, seed=0) == whole


def test_of_equal_distributions_they_are_what_is_expected() -> None:
    """Naeem et al. 2020: density 1, coverage 1 − (N−1)…(N−k)/((2N−1)…(2N−k)) for as many real images, in any space."""
    num, k = 400, DENSITY_K
    expected = 1 - np.prod([(num - i) / (2 * num - i) for i in range(1, k + 1)])
    found = [neighbours(normal(2 * s, num), normal(2 * s + 1, num), seed=0) for s in range(20)]
    assert np.mean([one.density for one in found]) == pytest.approx(1.0, abs=0.03)
    assert np.mean([one.coverage for one in found]) == pytest.approx(expected, abs=0.01)
    assert np.mean([one.precision - one.recall for one in found]) == pytest.approx(0.0, abs=0.02)


def test_the_same_images_and_images_far_away() -> None:
    real = normal(0, 50)
    same, far = neighbours(real, real, seed=0), neighbours(real + 100, real, seed=0)
    assert (same.precision, same.recall, same.coverage) == (1, 1, 1)
    assert (far.precision, far.recall, far.density, far.coverage) == (0, 0, 0, 0)


def test_what_is_missing_is_recall_and_what_is_wrong_is_precision() -> None:
    """A set of one of two clusters is precise and recalls half; one that adds a third cluster recalls all."""
    one, other, wrong = normal(0, 200, shift=0.0), normal(1, 200, shift=30.0), normal(2, 200, shift=-30.0)
    real = np.concatenate([one, other])
    missing = neighbours(normal(3, 200), real, seed=0)
    assert missing.precision > 0.8 and missing.recall < 0.5 and missing.coverage < 0.5
    more = neighbours(np.concatenate([normal(3, 200), normal(4, 200, shift=30.0), wrong]), real, seed=0)
    assert more.recall > 0.8 and more.precision == pytest.approx(missing.precision * 2 / 3, abs=0.05)


def test_equal_images_lie_in_each_others_surroundings() -> None:
    """A radius is 0 where an image is there more than k times."""
    found = neighbours(np.ones((8, 4), np.float32), np.ones((9, 4), np.float32), seed=0)
    assert (found.precision, found.recall, found.coverage) == (1, 1, 1)


def test_of_many_images_some_are_drawn_by_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_IMAGES", 50)
    x, real = normal(0, 300), normal(1, 200, shift=0.5)
    assert neighbours(x, real, seed=3) == neighbours(x, real, seed=3)
    assert neighbours(x, real, seed=3) != neighbours(x, real, seed=4)


@pytest.mark.parametrize(("num", "num_real"), [(DENSITY_K, 100), (100, DENSITY_K), (1, 1)])
def test_of_too_few_images_they_are_unknown(num: int, num_real: int) -> None:
    found = neighbours(normal(0, num), normal(1, num_real), seed=0)
    assert np.isnan([found.precision, found.recall, found.density, found.coverage]).all()
