"""Noise by image and step: Philox4x32-10 with Box–Muller, the same numbers in Python and in the C++ runtime.

A counter-based generator (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") has no state: the noise
of image i at a step follows from the seed, i and the step alone, whatever the batch it is drawn in, the device or the
language. Step 0 is the start.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

NAME = "philox4x32-10, Box-Muller"
MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
WEYL = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10
LOW, SHIFT = np.uint64(0xFFFFFFFF), np.uint64(32)
SEEDS = 2**64


def philox4x32(counter: NDArray[np.uint64], key: tuple[int, int]) -> NDArray[np.uint64]:
    """Philox4x32-10: counter (..., 4) and key of 32-bit words -> (..., 4) random 32-bit words, held in uint64."""
    a, b, c, d = (counter[..., i] for i in range(4))
    k0, k1 = key
    for _ in range(ROUNDS):
        first, second = a * MULTIPLIERS[0], c * MULTIPLIERS[1]
        a, b = (second >> SHIFT) ^ b ^ np.uint64(k0), second & LOW
        c, d = (first >> SHIFT) ^ d ^ np.uint64(k1), first & LOW
        k0, k1 = (k0 + WEYL[0]) & 0xFFFFFFFF, (k1 + WEYL[1]) & 0xFFFFFFFF
    return np.stack([a, b, c, d], axis=-1)


def normal(seed: int, first: int, count: int, size: int, *, steps: int = 1) -> NDArray[np.float32]:
    """Standard normal noise of the images first … first + count − 1, at the steps 0 … steps − 1.

    The key is the seed's two words; block b of four numbers of image i at step s has the counter
    (b, s, i mod 2³², i div 2³²).
    Words r become u = (r + ½)·2⁻³², and pairs of them √(−2 ln u₀)·(cos 2πu₁, sin 2πu₁), in float64.

    Returns:
        (count, steps·size) float32: `size` numbers for each step, the start first.

    Raises:
        ValueError: a seed or an image's number is not in 0 … 2⁶⁴ − 1.
    """
    if not 0 <= seed < SEEDS or first < 0 or count < 0 or first + count > SEEDS:
        raise ValueError(f"seed {seed} and images {first} … {first + count - 1} must be in 0 … 2^64 − 1")
    blocks = -(-size // 4)
    counter = np.zeros((count, steps, blocks, 4), np.uint64)
    counter[..., 0] = np.arange(blocks, dtype=np.uint64)
    counter[..., 1] = np.arange(steps, dtype=np.uint64)[:, None]
    image = np.uint64(first) + np.arange(count, dtype=np.uint64)[:, None, None]
    counter[..., 2], counter[..., 3] = image & LOW, image >> SHIFT
    words = philox4x32(counter, (seed & 0xFFFFFFFF, seed >> 32))
    u = (words.astype(np.float64) + 0.5) * 2.0**-32
    radius, angle = np.sqrt(-2.0 * np.log(u[..., 0::2])), 2.0 * np.pi * u[..., 1::2]
    pairs = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)
    return pairs.reshape(count, steps, blocks * 4)[..., :size].reshape(count, steps * size).astype(np.float32)
