"""The labelled images of a recipe; part of the schema."""

from __future__ import annotations

from pydantic import Field, StrictBool, model_validator

from dashdeploy.fields import Model, Number, Side, Text
from dashdeploy.recipe.datasets import DatasetName


class Data(Model):
    """The labelled images to train on and to measure against."""

    name: DatasetName = Field("digits", description="the dataset")
    image_size: Side | None = Field(
        None,
        description="side in pixels: images are cropped to their central square and resized by Pillow's antialiased "
        "bilinear filter; null: as stored",
    )
    path: Text | None = Field(
        None, description="folder with the dataset's files, relative to this file; null: the dataset's usual folder"
    )
    holdout: Number = Field(
        0.1, ge=0, lt=1, description="share of the training images that is held out, for guidance fidelity"
    )
    horizontal_flip: StrictBool | None = Field(None, description="mirror images at random; null: as the dataset says")
    download: StrictBool = Field(False, description="download the dataset's published archive if it is not there")
    vae: Text | None = Field(
        None,
        description="folder of an autoencoder in diffusers format, relative to this file: images are encoded once, the "
        "networks are trained on their latents, and what is drawn is decoded; left out: vae/ of teacher.path, if there "
        "is one",
    )

    @property
    def gives_latents(self) -> bool:
        """Whether networks are trained on latents, which have no fixed range, and not on images."""
        return self.name == "latents" or self.vae is not None

    @model_validator(mode="after")
    def _encoded_once(self) -> Data:
        if self.name == "latents" and self.image_size is not None:
            raise ValueError("latents are not changed: leave out image_size")
        if self.name == "latents" and self.horizontal_flip is not None:
            raise ValueError("latents are mirrored where their files have an array mirrored: leave out horizontal_flip")
        return self
