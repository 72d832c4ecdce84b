"""The part of an artifact's contract that says what its decoder graph is."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from dashdeploy.artifact.engine import Sha256
from dashdeploy.figures import Part

Precision = Literal["fp32", "fp16", "bf16", "int8"]
Side = Annotated[int, Field(ge=1, le=1 << 16)]
MOST_PIXELS = 1 << 28
"""Values of one image."""


class DecoderInfo(Part):
    """The graph that makes images of a student's latents.

    Attributes:
        image_shape: (C, H, W) of the images, grey or RGB.
        output: float32 within [−1, 1], or uint8.
        at_once: most images that a host gives it at a time, so that its memory is bounded.
        sha256: of the autoencoder that it was made from.
    """

    image_shape: tuple[Side, Side, Side]
    output: Literal["float32", "uint8"]
    at_once: Annotated[int, Field(ge=1, le=4096)]
    precision: Precision
    sha256: Sha256

    @model_validator(mode="after")
    def _is_of_images(self) -> DecoderInfo:
        if self.image_shape[0] not in (1, 3):
            raise ValueError("image_shape must have 1 or 3 channels")
        refuse_huge(self.image_shape)
        return self


def refuse_huge(shape: tuple[int, int, int]) -> None:
    """Raises:
    ValueError: an image of this shape (C, H, W) has more than MOST_PIXELS values.
    """
    if math.prod(shape) > MOST_PIXELS:
        raise ValueError(f"image_shape has more than {MOST_PIXELS} values")
