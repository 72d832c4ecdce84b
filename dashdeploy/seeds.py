"""Seeds: one recipe seed, and a distinct, reproducible number for each purpose and step."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager


def derive(seed: int, *parts: str | int) -> int:
    """A 63-bit seed that depends on the recipe's seed and on all parts; for every torch.Generator in the project."""
    digest = hashlib.sha256(repr((seed, *parts)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


@contextmanager
def torch_seed(seed: int, *parts: str | int) -> Iterator[None]:
    """torch's global generator seeded by `derive` inside of the block, and as it was after it: for new modules."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, *parts))
        yield
