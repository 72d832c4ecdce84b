"""The package's client without a server: labels from its command line, and the pictures that it writes."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from dashdeploy.diffusion.pixels import to_uint8


def test_the_client_reads_labels_by_number_range_and_name(client: ModuleType) -> None:
    classes = ["cat", "dog-like", "horse"]
    assert client.find_labels("0-2,horse,dog-like,1", classes) == [0, 1, 2, 2, 1, 1]
    with pytest.raises(SystemExit, match=r"no class 'cow'; expected 0 … 2 or one of cat, dog-like, horse"):
        client.find_labels("cow", classes)


@pytest.mark.parametrize(("channels", "suffix"), [(1, ".png"), (3, ".png"), (1, ".pgm"), (3, ".ppm")])
def test_the_client_writes_pictures_that_others_read(
    client: ModuleType, tmp_path: Path, channels: int, suffix: str
) -> None:
    images = np.random.default_rng(0).uniform(-1.1, 1.1, (5, channels, 4, 6)).astype(np.float32)
    pixels = client.grid(client.to_uint8(images), 3)
    assert pixels.shape == (8, 18, channels)
    assert np.array_equal(client.to_uint8(images), to_uint8(torch.from_numpy(images)).numpy())
    assert np.array_equal(pixels[4:, 6:12], client.to_uint8(images)[4].transpose(1, 2, 0))
    path = tmp_path / f"grid{suffix}"
    client.write_picture(path, pixels)
    with Image.open(path) as picture:
        assert np.array_equal(np.asarray(picture).reshape(pixels.shape), pixels)
