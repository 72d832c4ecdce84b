from __future__ import annotations

import numpy as np
import pytest
from scipy import linalg

from dashdeploy.metrics.frechet import Statistics, fid, frechet_distance, statistics

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
    few, many = (fid([gaussian(0.5, 1, n=n, seed=2)], reference, resamples=100, seed=0) for n in (200, 4000))
    for found in (few, many):
        assert found.low <= found.value <= found.high
    assert many.high - many.low < few.high - few.low


def test_the_interval_covers_the_expectation_at_this_number_of_images() -> None:
    reference = statistics(gaussian(0, 1, seed=1))
    found = [fid([gaussian(0.5, 1, n=300, seed=s)], reference, resamples=60, seed=s) for s in range(100)]
    expectation = np.mean([one.value for one in found])
    assert np.mean([one.low <= expectation <= one.high for one in found]) >= 0.87  # 0.95, less 3 errors, few resamples
    many = fid([gaussian(0.5, 1, n=4000, seed=s) for s in range(5)], reference, resamples=0, seed=0).value
    assert expectation > many + 0.02, "FID is larger the fewer the images are"


def test_several_sets_are_one_mean_with_a_narrower_interval() -> None:
    reference = statistics(gaussian(0, 1, seed=1))
    sets = [gaussian(0.5, 1, n=300, seed=s) for s in range(4)]
    alone = [fid([one], reference, resamples=100, seed=0) for one in sets]
    together = fid(sets, reference, resamples=100, seed=0)
    assert together.value == pytest.approx(np.mean([one.value for one in alone]))
    width = np.mean([one.high - one.low for one in alone])
    assert together.high - together.low == pytest.approx(width / 2, rel=0.25)


def pairs(seed: int, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Images of a teacher, and those of a student that follow them closely."""
    rng = np.random.default_rng(seed)
    teacher = rng.normal(size=(len(labels), 5)) + labels[:, None] * 2.0
    return teacher + 0.3 * rng.normal(size=teacher.shape), teacher


def test_images_of_one_noise_are_resampled_in_pairs() -> None:
    # On their own, the teacher's images would seem to vary as if each draw of the student met other ones.
    labels = np.arange(200) % 3
    draws = [pairs(seed, labels) for seed in range(100)]
    found = [fid([s], [t], resamples=60, seed=i, strata=labels) for i, (s, t) in enumerate(draws)]
    values = np.array([one.value for one in found])
    assert np.mean([one.low <= values.mean() <= one.high for one in found]) >= 0.85
    width = np.mean([one.high - one.low for one in found])
    assert width == pytest.approx(3.92 * values.std(), rel=0.3)
    unpaired = fid([draws[0][0]], statistics(draws[0][1]), resamples=60, seed=0, strata=labels)
    assert unpaired.high - unpaired.low > 2 * width


def test_images_of_fixed_labels_are_resampled_within_their_class() -> None:
    # Classes far apart: resampling across them would add a spread that samples of given labels do not have.
    rng = np.random.default_rng(0)
    labels = np.arange(400) % 4
    x = rng.normal(size=(400, 5)) + labels[:, None] * 10.0
    reference = statistics(rng.normal(size=(400, 5)) + labels[:, None] * 10.0)
    alone, within = (fid([x], reference, resamples=100, seed=0, strata=s) for s in (None, labels))
    assert within.value == alone.value
    assert within.high - within.low < 0.5 * (alone.high - alone.low)


def test_without_resamples_there_is_no_interval() -> None:
    found = fid([gaussian(0, 1, n=50)], statistics(gaussian(0, 1)), resamples=0, seed=0)
    assert np.isnan(found.low)
