"""Images in a grid, as a PNG file's bytes."""

from __future__ import annotations

import io
import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dashdeploy.errors import UserError

MOST_VALUES = 1 << 29
"""Bytes of the finished picture; a viewer opens no larger one."""
SEPARATOR = 128
"""Grey between the images: visible next to black and next to white."""


def grid_shape(
    count: int, image_shape: tuple[int, int, int], columns: int, *, scale: int = 1, separator: int = 1
) -> tuple[int, int, int]:
    """Height, width and channels of the picture that `grid_png` makes of `count` images (C, H, W).

    Raises:
        UserError: the picture would be too large.
    """
    c, h, w = image_shape
    height, width = h * scale + separator, w * scale + separator
    shape = (-(-count // columns) * height - separator, columns * width - separator, c)
    if math.prod(shape) > MOST_VALUES:
        raise UserError(
            f"the picture would have {shape[1]:,}×{shape[0]:,} pixels. Take fewer images, or a smaller scale."
        )
    return shape


def grid_png(images: NDArray[np.uint8], columns: int, *, scale: int = 1, separator: int = 1) -> bytes:
    """A PNG of the images, row by row, each pixel enlarged to scale × scale.

    images: (n, C, H, W) uint8 with C = 1 (grey) or 3 (RGB); a last row that is not full ends in grey.
    separator: pixels of the finished picture between neighbours; there is no outer border.

    Raises:
        UserError: the picture would be too large.
        ValueError: another shape or dtype, no images, or a size that is not positive.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3) or not len(images):
        raise ValueError(f"images must be (n, 1 or 3, H, W) uint8 with n ≥ 1, not {images.shape} {images.dtype}")
    if min(columns, scale) < 1 or separator < 0:
        raise ValueError(f"columns {columns} and scale {scale} must be at least 1, separator {separator} at least 0")
    n, c, h, w = images.shape
    height, width = h * scale, w * scale
    shape = grid_shape(n, (c, h, w), columns, scale=scale, separator=separator)
    canvas = np.full(shape, SEPARATOR, dtype=np.uint8)
    enlarged = images.transpose(0, 2, 3, 1).repeat(scale, axis=1).repeat(scale, axis=2)
    for i, image in enumerate(enlarged):
        top, left = i // columns * (height + separator), i % columns * (width + separator)
        canvas[top : top + height, left : left + width] = image
    buffer = io.BytesIO()
    Image.fromarray(canvas[..., 0] if c == 1 else canvas).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
