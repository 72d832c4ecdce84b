"""Whether data.vae gives the latents that the teacher takes, told before all images are encoded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dashdeploy.data.encode import open_vae
from dashdeploy.data.images import LabelledImages
from dashdeploy.errors import UserError
from dashdeploy.locate import expanded
from dashdeploy.recipe.schema import Recipe
from dashdeploy.teachers import choose, formats


def refuse(stored: LabelledImages, recipe: Recipe, run_folder: Path, wanted: Sequence[str]) -> bool:
    """Refuse to encode images to other latents than the teacher takes; True: they are not refused.

    Nothing is said of a teacher that is yet to be trained, or that cannot be read: other checks tell of it.

    Args:
        stored: the dataset as its files hold it.

    Raises:
        UserError: the latents have other channels or sides; or data.vae is no autoencoder, or one for other images.
    """
    if recipe.data.vae is None or stored.are_latents or recipe.teacher.path is None or set(wanted) == {"bench"}:
        return True
    try:
        folder = choose.find(recipe, run_folder)
        config = {} if folder is None else formats.config_of(folder, role="teacher")
    except UserError:
        return True
    channels, side = config.get("in_channels"), config.get("sample_size")
    if not isinstance(channels, int) or not isinstance(side, int):
        return True
    made = open_vae(expanded(recipe.data.vae)).latent_shape(stored.image_shape)
    if made != (channels, side, side):
        advice = (
            "Take the autoencoder that belongs to the teacher."
            if made[0] != channels
            else f"Images of {stored.image_shape[1]} pixels have latents of {made[1]}: set data.image_size accordingly."
        )
        raise UserError(
            f"data.vae {recipe.data.vae}: its latents are {made} (C, H, W), and teacher {folder} takes "
            f"{(channels, side, side)}. {advice}"
        )
    return True
