"""The grid's PNG: size, place and value of every pixel."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from dashdeploy.report.grid import SEPARATOR, grid_png


def decode(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


@pytest.mark.parametrize("channels", [1, 3])
def test_every_image_stands_enlarged_at_its_place(channels: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, channels, 4, 6), dtype=np.uint8)
    decoded = decode(grid_png(images, 2, scale=3))
    assert decoded.shape[:2] == (3 * 12 + 2, 2 * 18 + 1)
    assert decoded.shape[2:] == (() if channels == 1 else (3,))
    for i, image in enumerate(images):
        top, left = i // 2 * 13, i % 2 * 19
        cell = decoded[top : top + 12, left : left + 18].reshape(12, 18, channels)
        expected = np.kron(image, np.ones((1, 3, 3), dtype=np.uint8)).transpose(1, 2, 0)
        np.testing.assert_array_equal(cell, expected)


def test_separators_and_the_free_place_are_grey() -> None:
    decoded = decode(grid_png(np.zeros((3, 1, 2, 2), dtype=np.uint8), 2, scale=2, separator=2))
    assert decoded.shape == (10, 10)
    assert (decoded[4:6] == SEPARATOR).all() and (decoded[:, 4:6] == SEPARATOR).all()
    assert (decoded[6:, 6:] == SEPARATOR).all()
    assert (decoded == 0).sum() == 3 * 16


def test_one_image_has_no_border() -> None:
    image = np.arange(16, dtype=np.uint8).reshape(1, 1, 4, 4)
    np.testing.assert_array_equal(decode(grid_png(image, 1)), image[0, 0])


@pytest.mark.parametrize(
    ("images", "columns", "scale"),
    [
        (np.zeros((2, 1, 4, 4), dtype=np.float32), 1, 1),
        (np.zeros((2, 2, 4, 4), dtype=np.uint8), 1, 1),
        (np.zeros((2, 4, 4), dtype=np.uint8), 1, 1),
        (np.zeros((0, 1, 4, 4), dtype=np.uint8), 1, 1),
        (np.zeros((2, 1, 4, 4), dtype=np.uint8), 0, 1),
        (np.zeros((2, 1, 4, 4), dtype=np.uint8), 1, 0),
    ],
)
def test_other_shapes_and_sizes_are_refused(images: np.ndarray, columns: int, scale: int) -> None:
    with pytest.raises(ValueError, match="must be"):
        grid_png(images, columns, scale=scale)
