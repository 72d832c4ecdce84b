"""The student's network and how it begins, as a recipe says it; part of the schema."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from dashdeploy.fields import REAL, Model
from dashdeploy.recipe.architecture import Architecture, DiT, Layers
from dashdeploy.recipe.initialisation import Init, Random

Prediction = Literal["epsilon", "v_prediction", "sample"]
"""diffusers' names: eps; v = √ᾱ·eps − √(1 − ᾱ)·x_0 (Salimans & Ho 2022); x_0."""


class Student(Model):
    """The student's network: a compression ratio (a smaller network of the teacher's kind), or its architecture."""

    compression: Annotated[float, Field(gt=1, le=1e6), REAL] | None = Field(
        None, description="smallest ratio of the teacher's parameters to the student's"
    )
    layers_per_block: Layers | None = Field(
        None, description="with compression of a UNet: blocks of each level; null: chosen with the widths"
    )
    architecture: Architecture | None = Field(None, description="a UNet2DModel in full")
    dit: DiT | None = Field(None, description="a DiTTransformer2DModel in full")
    prediction_type: Prediction | None = Field(
        None,
        description="what it predicts: epsilon, v_prediction or sample (x_0); null: what its teacher predicts. A "
        "few-step student cannot predict epsilon, which says nothing of the image at the noisiest timestep",
    )
    branches: Literal[2, 1] = Field(
        2,
        description="2: a conditional and an unconditional branch, which guidance combines. 1: the guidance scale is "
        "an input of the network, and an image costs half; for the objectives that say so",
    )
    init: Init = Field(
        Random(), description="its weights at the start: random, pruned from the teacher's, or those of a finished run"
    )

    @model_validator(mode="after")
    def _given_once(self) -> Student:
        if sum(size is not None for size in (self.compression, self.architecture, self.dit)) != 1:
            raise ValueError("give exactly one of compression, architecture and dit")
        if self.compression is None and self.layers_per_block is not None:
            raise ValueError("layers_per_block goes with compression; architecture has its own layers_per_block")
        return self
