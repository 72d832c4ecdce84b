"""Pixels as bytes, and as the numbers from −1 to 1 that networks compute with."""

from __future__ import annotations

import torch


def to_uint8(images: torch.Tensor) -> torch.Tensor:
    """[−1, 1] float -> 0..255 uint8, rounded to nearest; values past the range saturate."""
    return ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def from_uint8(images: torch.Tensor) -> torch.Tensor:
    """0..255 uint8 -> [−1, 1] float32; `to_uint8` gives the same bytes back."""
    return images.float() / 127.5 - 1
