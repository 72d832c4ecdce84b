"""Seeds: from a recipe's one seed a distinct, reproducible number for each purpose and step."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager


def derive(seed: int, *parts: str | int) -> int:
    """A 63-bit seed that depends on the recipe's seed and on all `parts`; every torch.Generator is seeded so."""
    digest = hashlib.sha256(repr((seed, *parts)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


@contextmanager
def torch_seed(seed: int, *parts: str | int) -> Iterator[None]:
    """Seed torch's global generator by `derive` within the block, and restore it afterwards; for new modules."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, *parts))
        yield
