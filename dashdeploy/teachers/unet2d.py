"""Class-conditional `UNet2DModel`s in diffusers format: build, check, load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from dashdeploy.diffusion.denoiser import Interface, TorchDenoiser
from dashdeploy.errors import UserError
from dashdeploy.recipe.architecture import Architecture
from dashdeploy.teachers import networks

MOST_SIDE = 8192
"""Of images, in pixels; and of their channels."""


def unet_config(architecture: Architecture, *, image_shape: tuple[int, int, int], num_classes: int) -> dict[str, Any]:
    """`UNet2DModel` arguments of a recipe's architecture; label K is the null class."""
    levels = range(len(architecture.block_out_channels))
    down = ["AttnDownBlock2D" if i in architecture.attention_levels else "DownBlock2D" for i in levels]
    up = ["AttnUpBlock2D" if i in architecture.attention_levels else "UpBlock2D" for i in reversed(levels)]
    channels, size, _ = image_shape
    return {
        "sample_size": size,
        "in_channels": channels,
        "out_channels": channels,
        "block_out_channels": list(architecture.block_out_channels),
        "layers_per_block": architecture.layers_per_block,
        "down_block_types": down,
        "up_block_types": up,
        "attention_head_dim": architecture.attention_head_dim,
        "norm_num_groups": architecture.norm_num_groups,
        "dropout": architecture.dropout,
        "num_class_embeds": num_classes + 1,
    }


def build(architecture: Architecture, *, image_shape: tuple[int, int, int], num_classes: int, seed: int) -> Any:
    """A freshly initialised UNet; the weights depend only on the seed."""
    check_levels(architecture, image_shape)
    config = unet_config(architecture, image_shape=image_shape, num_classes=num_classes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return networks.create(config)


def check_levels(architecture: Architecture, image_shape: tuple[int, int, int]) -> None:
    """Refuse images that cannot be halved from each level to the next.

    Raises:
        UserError: their side is not divisible by 2 to the number of halvings.
    """
    halvings = len(architecture.block_out_channels) - 1
    if image_shape[1] % (1 << halvings):
        raise UserError(
            f"images of {image_shape[1]} pixels cannot be halved {halvings} times: "
            f"use fewer block_out_channels or set data.image_size to a multiple of {1 << halvings}"
        )


def load(folder: Path, *, role: str = "teacher") -> TorchDenoiser:
    """Open a class-conditional `UNet2DModel` with its scheduler, in eval mode and float32.

    `folder` holds `unet/` and `scheduler/` (a pipeline) or `config.json` beside `scheduler_config.json`.
    The last class embedding (index K) is the null class. The scheduler's prediction_type says what the network predicts
    (eps, v or x_0); the denoiser returns eps.

    Raises:
        UserError: anything missing, damaged or not class-conditional; the message says what to do.
    """
    unet_folder = networks.folder_of(folder)
    config = networks.read_config(folder, role=role)
    embeds = config.get("num_class_embeds")
    if kind := config.get("class_embed_type"):
        raise UserError(
            f"{role} {unet_folder}: class_embed_type is {kind!r}: it embeds classes without a table, so there is no "
            "row for the null class. Only models with a table of classes (class_embed_type null) can be distilled."
        )
    if not _is_whole(embeds) or embeds < 2:
        raise UserError(
            f"{role} {unet_folder}: num_class_embeds is {embeds}; a model of K classes with a null class has K + 1. "
            "A model without the null class was not trained for classifier-free guidance."
        )
    size, channels = config.get("sample_size"), config.get("in_channels", 3)
    sides = size if isinstance(size, list) else [size, size]
    if len(sides) != 2 or not all(_is_whole(n) and 0 < n <= MOST_SIDE for n in (*sides, channels)):
        raise UserError(
            f"{role} {unet_folder / 'config.json'}: sample_size is {'missing' if size is None else size}, in_channels "
            f"{channels}; set them to the side and the channels of the images, at most {MOST_SIDE:,}"
        )
    shape = (channels, sides[0], sides[1])
    state = networks.read_weights(folder, role=role)
    unet = networks.restore(config, state, image_shape=shape, folder=folder, role=role)
    schedule, prediction = networks.load_schedule(folder, role)
    interface = Interface(num_classes=embeds - 1, image_shape=shape, schedule=schedule)
    return TorchDenoiser(unet, interface, prediction=prediction)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
