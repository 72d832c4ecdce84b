"""KID: its value by the definition, its null, and how often its interval holds the true distance."""

from __future__ import annotations

import numpy as np
import pytest

from dashdeploy.metrics import kernel
from dashdeploy.metrics.frechet import Estimate
from dashdeploy.metrics.kernel import kid

D = 4
SHARES = np.array([0.2, 0.3, 0.5])
MEANS = np.array([[2.0, 0, 0, 0], [0, 2.0, 0, 0], [-1.0, -1.0, 2.0, 0]])


def labels_of(num: int) -> np.ndarray:
    return np.repeat(np.arange(3), np.round(SHARES * num).astype(int))


def draw(rng: np.random.Generator, labels: np.ndarray, shift: float = 0.0) -> np.ndarray:
    """A Gaussian of unit covariance for each class."""
    return rng.normal(size=(len(labels), D)) + MEANS[labels] + shift


def true_mmd2(shift: float) -> float:
    """(x·y/D + 1)³ = Σ_p C(3, p) (x·y/D)^p, so MMD² sums the squared differences of the first three moments."""

    def moments(by: float) -> tuple[np.ndarray, ...]:
        m, unit = MEANS + by, np.eye(D)
        third = np.einsum("c,ci,cj,ck->ijk", SHARES, m, m, m)
        mixed = np.einsum("ij,k->ijk", unit, SHARES @ m)
        third = third + mixed + mixed.transpose(0, 2, 1) + mixed.transpose(2, 0, 1)
        return SHARES @ m, np.einsum("c,ci,cj->ij", SHARES, m, m) + unit, third

    both = zip((3, 3, 1), moments(0.0), moments(shift), strict=True)
    return sum(n / D**p * ((a - b) ** 2).sum() for p, (n, a, b) in enumerate(both, start=1))


def simulate(shift: float, *, sets: int = 200, num: int = 300, real: int = 400) -> list[Estimate]:
    """Images and reference drawn anew for each estimate."""
    x, y = labels_of(num), labels_of(real)
    found = []
    for seed in range(sets):
        rng = np.random.default_rng(seed)
        found.append(kid(draw(rng, x, shift), draw(rng, y), seed=0, strata=x, reference_strata=y))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("shift", [0.0, 0.15, 0.5])
def test_it_is_unbiased_and_its_interval_covers_the_true_distance(shift: float) -> None:
    found, true = simulate(shift), true_mmd2(shift)
    values = np.array([one.value for one in found])
    assert abs(values.mean() - true) < 3 * values.std() / np.sqrt(len(values))
    assert np.mean([one.low <= true <= one.high for one in found]) >= 0.93
    # No wider than it must be: √2 times too wide where the distributions are equal, and right elsewhere.
    width = np.mean([one.high - one.low for one in found]) / (3.92 * values.std())
    assert 0.85 < width < (1.6 if shift == 0 else 1.3)


def test_independent_draws_would_take_given_labels_for_a_distance_below_zero() -> None:
    # The usual estimate of the same images, whose labels follow the reference more closely than draws would.
    x, y = labels_of(60), labels_of(400)
    usual, stratified = [], []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        a, b = draw(rng, x), draw(rng, y)
        usual.append(kid(a, b, seed=0).value)
        stratified.append(kid(a, b, seed=0, strata=x, reference_strata=y).value)
    error = np.std(usual) / 10
    assert np.mean(usual) < -5 * error
    assert abs(np.mean(stratified)) < 3 * np.std(stratified) / 10


def test_without_classes_it_is_the_polynomial_kernels_unbiased_mmd() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20, 3)), rng.normal(1, 1, size=(25, 3))
    k = lambda a, b: (a @ b / 3 + 1) ** 3  # noqa: E731
    xx = np.mean([k(x[i], x[j]) for i in range(20) for j in range(20) if i != j])
    yy = np.mean([k(y[i], y[j]) for i in range(25) for j in range(25) if i != j])
    xy = np.mean([k(a, b) for a in x for b in y])
    assert kid(x, y, seed=0).value == pytest.approx(xx + yy - 2 * xy)
    one_class = kid(x, y, seed=0, strata=np.zeros(20, int), reference_strata=np.zeros(25, int))
    assert one_class == kid(x, y, seed=0)


def test_pairs_of_classes_are_weighed_by_the_reference() -> None:
    x, y = np.array([[0.0], [1.0], [2.0], [4.0]]), np.array([[0.0], [3.0], [1.0], [5.0], [2.0], [2.5]])
    x_labels, y_labels = np.array([0, 0, 1, 1]), np.array([0, 0, 1, 1, 1, 1])
    k = lambda a, b: (a * b + 1) ** 3  # noqa: E731
    shares, expected = (2 / 6, 4 / 6), 0.0
    for c, share in enumerate(shares):
        for other, weight in enumerate(shares):
            xs, ys = (np.arange(len(labels))[labels == c] for labels in (x_labels, y_labels))
            xo, yo = (np.arange(len(labels))[labels == other] for labels in (x_labels, y_labels))
            xx = np.mean([k(x[i, 0], x[j, 0]) for i in xs for j in xo if i != j])
            yy = np.mean([k(y[i, 0], y[j, 0]) for i in ys for j in yo if i != j])
            xy = np.mean([k(x[i, 0], y[j, 0]) for i in xs for j in yo])
            expected += share * weight * (xx + yy - 2 * xy)
    assert kid(x, y, seed=0, strata=x_labels, reference_strata=y_labels).value == pytest.approx(expected)


@pytest.mark.parametrize(
    ("x", "y"),
    [
        ([0, 0, 0, 1], [0, 0, 1, 1]),
        ([0, 1, 2, 3], [0, 0, 1, 1]),
        ([0, 0, 1, 1], [0, 0, 0, 0]),
        ([0, 0, 0, 0], [1, 1, 1, 1]),
    ],
)
def test_classes_of_less_than_two_images_are_taken_together(x: list[int], y: list[int]) -> None:
    rng = np.random.default_rng(0)
    found = kid(
        rng.normal(size=(4, 2)), rng.normal(size=(4, 2)), seed=0, strata=np.array(x), reference_strata=np.array(y)
    )
    assert np.isfinite([found.value, found.low, found.high]).all() and found.low < found.high


def test_of_a_large_set_a_part_is_drawn_by_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = labels_of(300), labels_of(400)
    rng = np.random.default_rng(0)
    a, b = draw(rng, x, 0.3), draw(rng, y)
    whole = kid(a, b, seed=0, strata=x, reference_strata=y)
    monkeypatch.setattr(kernel, "ROWS", 7)
    assert kid(a, b, seed=0, strata=x, reference_strata=y).value == pytest.approx(whole.value)
    monkeypatch.setattr(kernel, "MAX_IMAGES", 100)
    parts = [kid(a, b, seed=seed, strata=x, reference_strata=y) for seed in (0, 0, 1)]
    assert parts[0] == parts[1] != parts[2]
    assert parts[0].high - parts[0].low > whole.high - whole.low
