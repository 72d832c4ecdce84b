"""Seeds: one recipe seed, and a distinct, reproducible number for each purpose and step."""

from __future__ import annotations

import hashlib


def derive(seed: int, *parts: str | int) -> int:
    """A 63-bit seed that depends on the recipe's seed and on all parts; for every torch.Generator in the project."""
    digest = hashlib.sha256(repr((seed, *parts)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
