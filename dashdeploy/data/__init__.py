"""Datasets: labelled uint8 images or latents, by name."""

from __future__ import annotations

from dashdeploy.data.images import LabelledImages, prepare
from dashdeploy.lazy import resolve
from dashdeploy.locate import expanded
from dashdeploy.recipe.datasets import DATASETS
from dashdeploy.recipe.schema import Data


def load_dataset(config: Data) -> LabelledImages:
    """The training images, or latents, that a recipe's `data` section names, cropped and resized as it says.

    Raises:
        UserError: missing or damaged files; the message says what to do.
    """
    images = prepare(resolve("dataset", DATASETS, config.name, package="dashdeploy.data")(config), config)
    if config.vae is not None:
        from dashdeploy.data.encode import encoded  # it imports torch and diffusers

        return encoded(images, expanded(config.vae))
    return images
