"""The counter-based noise: published known answers, normal moments, and numbers that depend on seed and image alone."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from dashdeploy.diffusion import noise

# Random123 (Salmon et al. 2011), tests/kat_vectors, philox4x32 10: counter, key, words.
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_philox_gives_the_published_answers(counter: str, key: str, expected: str) -> None:
    k0, k1 = words(key)
    assert noise.philox4x32(np.array(words(counter), np.uint64), (k0, k1)).tolist() == words(expected)


def test_an_image_s_noise_does_not_depend_on_the_others() -> None:
    whole = noise.normal(7, 0, 5, 13)
    assert whole.shape == (5, 13) and whole.dtype == np.float32
    for i in range(5):
        assert np.array_equal(noise.normal(7, i, 1, 13)[0], whole[i])
    assert np.array_equal(noise.normal(7, 0, 5, 9), whole[:, :9])


def test_seeds_and_images_past_32_bits_are_streams_of_their_own() -> None:
    draws = [noise.normal(seed, first, 1, 8) for seed in (0, 1, 2**32, 2**64 - 1) for first in (0, 1, 2**32)]
    assert len({draw.tobytes() for draw in draws}) == len(draws)


def test_it_is_standard_normal_and_its_elements_are_uncorrelated() -> None:
    drawn = noise.normal(3, 0, 2000, 32)
    assert stats.kstest(drawn.ravel(), "norm").pvalue > 1e-3
    correlation = np.corrcoef(drawn.T) - np.eye(32)
    assert np.abs(correlation).max() < 5 / np.sqrt(2000)
    assert np.isfinite(drawn).all()


@pytest.mark.parametrize(("seed", "first", "count"), [(-1, 0, 1), (2**64, 0, 1), (0, -1, 1), (0, 2**64 - 1, 2)])
def test_what_is_not_64_bits_is_refused(seed: int, first: int, count: int) -> None:
    with pytest.raises(ValueError, match="must be in 0"):
        noise.normal(seed, first, count, 4)
