from __future__ import annotations

import numpy as np
import pytest
from scipy import linalg

from dashdeploy.metrics.frechet import Statistics, fid, frechet_distance, kid, statistics

RNG = np.random.default_rng(0)


def gaussian(mean: float, scale: float, n: int = 4000, d: int = 6, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, scale, (n, d))


def test_distance_of_two_isotropic_gaussians_is_the_closed_form() -> None:
    # d·(Δμ)² + d·(σ₁ − σ₂)²
    a = Statistics(np.zeros(5), np.eye(5) * 4.0, 100)
    b = Statistics(np.full(5, 3.0), np.eye(5) * 9.0, 100)
    assert frechet_distance(a, b) == pytest.approx(5 * 9 + 5 * 1)


def test_distance_agrees_with_the_matrix_square_root_of_scipy() -> None:
    x, y = RNG.normal(size=(200, 8)) @ RNG.normal(size=(8, 8)), RNG.normal(size=(300, 8)) + 0.3
    a, b = statistics(x), statistics(y)
    root = linalg.sqrtm(a.covariance @ b.covariance).real
    expected = ((a.mean - b.mean) ** 2).sum() + np.trace(a.covariance + b.covariance - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)


def test_a_rank_deficient_covariance_is_no_problem() -> None:
    x = RNG.normal(size=(5, 20))
    assert frechet_distance(statistics(x), statistics(x)) == pytest.approx(0, abs=1e-6)


def test_statistics_are_unbiased_and_in_float64() -> None:
    x = RNG.normal(size=(50, 3)).astype(np.float32)
    found = statistics(x)
    np.testing.assert_allclose(found.covariance, np.cov(x.astype(np.float64), rowvar=False))
    assert found.covariance.dtype == np.float64


def test_the_interval_holds_the_value_and_narrows_with_more_images() -> None:
    reference = statistics(gaussian(0, 1, seed=1))
    few, many = (fid(gaussian(0.5, 1, n=n, seed=2), reference, resamples=100, seed=0) for n in (200, 4000))
    for found in (few, many):
        assert found.low <= found.value <= found.high
    assert many.high - many.low < few.high - few.low


def test_the_interval_covers_the_spread_of_repeated_draws() -> None:
    reference = statistics(gaussian(0, 1, seed=1))
    values = [fid(gaussian(0.5, 1, n=500, seed=s), reference, resamples=0, seed=0).value for s in range(10, 40)]
    found = fid(gaussian(0.5, 1, n=500, seed=5), reference, resamples=200, seed=0)
    assert found.high - found.low == pytest.approx(4 * np.std(values), rel=0.5)


def test_images_of_fixed_labels_are_resampled_within_their_class() -> None:
    # Classes far apart: resampling across them would add a spread that the balanced samples do not have.
    rng = np.random.default_rng(0)
    labels = np.arange(400) % 4
    x = rng.normal(size=(400, 5)) + labels[:, None] * 10.0
    reference = statistics(rng.normal(size=(400, 5)) + labels[:, None] * 10.0)
    alone, within = (fid(x, reference, resamples=100, seed=0, strata=s) for s in (None, labels))
    assert within.value == alone.value
    assert within.high - within.low < 0.5 * (alone.high - alone.low)


def test_without_resamples_there_is_no_interval() -> None:
    found = fid(gaussian(0, 1, n=50), statistics(gaussian(0, 1)), resamples=0, seed=0)
    assert np.isnan(found.low)


def test_kid_of_one_distribution_is_zero_within_its_error_and_grows_with_the_distance() -> None:
    same = kid(gaussian(0, 1, seed=1), gaussian(0, 1, seed=2), seed=0)
    near = kid(gaussian(0.3, 1, seed=1), gaussian(0, 1, seed=2), seed=0)
    far = kid(gaussian(1, 1, seed=1), gaussian(0, 1, seed=2), seed=0)
    assert abs(same.value) < 0.02
    assert same.value < near.value < far.value


def test_balanced_labels_do_not_push_kid_below_zero() -> None:
    rng = np.random.default_rng(0)
    labels, drawn = np.arange(600) % 3, rng.integers(0, 3, 600)
    x, y = (rng.normal(size=(600, 5)) + 4.0 * np.eye(5)[which] * 3 for which in (labels, drawn))
    alone, within = (kid(x, y, subset=300, subsets=100, seed=0, strata=s) for s in (None, labels))
    assert alone.value < within.value


def test_kid_is_the_polynomial_kernels_unbiased_mmd() -> None:
    x, y = gaussian(0, 1, n=20, d=3, seed=1), gaussian(1, 1, n=20, d=3, seed=2)
    k = lambda a, b: (a @ b / 3 + 1) ** 3  # noqa: E731
    xx = np.mean([k(x[i], x[j]) for i in range(20) for j in range(20) if i != j])
    yy = np.mean([k(y[i], y[j]) for i in range(20) for j in range(20) if i != j])
    xy = np.mean([k(a, b) for a in x for b in y])
    assert kid(x, y, subset=20, subsets=2, seed=0).value == pytest.approx(xx + yy - 2 * xy)
