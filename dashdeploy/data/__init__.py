"""Datasets: labelled uint8 images or latents, by name."""

from __future__ import annotations

from dashdeploy.data.images import LabelledImages, prepare
from dashdeploy.errors import UserError
from dashdeploy.lazy import resolve
from dashdeploy.locate import expanded
from dashdeploy.recipe.datasets import DATASETS
from dashdeploy.recipe.schema import Data


def load_dataset(config: Data) -> LabelledImages:
    """The training images, or latents, that a recipe's `data` section names, cropped and resized as it says.

    Raises:
        UserError: missing or damaged files; the message says what to do.
    """
    return trained_on(load_stored(config), config)


def load_stored(config: Data) -> LabelledImages:
    """The images, or latents, as the dataset's files hold them, cropped and resized; not yet encoded by data.vae.

    Raises:
        UserError: see `load_dataset`.
    """
    load = resolve("dataset", DATASETS, config.name, package="dashdeploy.data")
    return prepare(load(config), config)


def trained_on(stored: LabelledImages, config: Data) -> LabelledImages:
    """What networks are trained on: what `load_stored` gave, or the latents to which data.vae encodes its images.

    Raises:
        UserError: data.vae is no autoencoder, or one for other images.
    """
    if config.vae is None or stored.are_latents:
        return stored
    from dashdeploy.data.encode import encoded  # it imports torch and diffusers

    return encoded(stored, expanded(config.vae))


def pictures_of(stored: LabelledImages, config: Data, *, pixels: bool = True) -> LabelledImages:
    """The images that FID compares with: what `load_stored` gave, or what its latents decode to.

    Args:
        pixels: false: only shape, labels and classes are needed, and no more than one latent is decoded.

    Raises:
        UserError: latents that no data.vae decodes.
    """
    if not stored.are_latents:
        return stored
    if config.vae is None:
        raise UserError("data.name latents without data.vae: nothing decodes them to images. Give the autoencoder.")
    from dashdeploy.data.encode import decoded, like_decoded

    return (decoded if pixels else like_decoded)(stored, expanded(config.vae))
