"""Datasets: labelled uint8 images or latents, found by name."""

from __future__ import annotations

from pathlib import Path

from dashdeploy.data.images import LabelledImages, prepare
from dashdeploy.lazy import resolve
from dashdeploy.recipe.schema import Data

DATASETS: dict[str, str] = {
    "digits": "dashdeploy.data.digits:load",
    "fashion_mnist": "dashdeploy.data.fashion_mnist:load",
    "cifar10": "dashdeploy.data.cifar:load_cifar10",
    "cifar100": "dashdeploy.data.cifar:load_cifar100",
    "image_folder": "dashdeploy.data.image_folder:load",
    "latents": "dashdeploy.data.latents:load",
}


def load_dataset(config: Data) -> LabelledImages:
    """Load a registered dataset's training images as the recipe's `data` section asks.

    Raises:
        UserError: unknown name, missing or damaged files; the message says what to do.
    """
    images = resolve("dataset", DATASETS, config.name)(config)
    images = prepare(images, config)
    if config.vae is not None:
        from dashdeploy.data.encode import encoded  # torch and diffusers, which plain images do not need

        return encoded(images, Path(config.vae).expanduser())
    return images
