"""Class-conditional `UNet2DModel`s in diffusers format: build, check, load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from dashdeploy.diffusion.denoiser import TorchDenoiser
from dashdeploy.errors import UserError
from dashdeploy.recipe.architecture import Architecture
from dashdeploy.teachers import networks


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
    The last class embedding (index K) is the null class. The scheduler's prediction_type says what it predicts: eps, v
    or x_0.

    Raises:
        UserError: anything missing, damaged or not class-conditional; the message says what to do.
    """
    unet_folder = networks.folder_of(folder)
    config = networks.read_config(folder, role=role)
    embeds = config.get("num_class_embeds")
    if not embeds or embeds < 2:
        raise UserError(
            f"{role} {unet_folder}: num_class_embeds is {embeds}; a model of K classes with a null class has K + 1. "
            "A model without the null class was not trained for classifier-free guidance."
        )
    channels = config.get("in_channels", 3)
    out, source = config.get("out_channels", 3), f"{role} {unet_folder / 'config.json'}"
    networks.check_out_channels(out, channels, source=source)
    size = config.get("sample_size")
    height, width = (size, size) if isinstance(size, int) else tuple(size or (0, 0))
    if not height or not width:
        raise UserError(f"{source}: sample_size is missing; set it to the image size")
    unet = networks.restore(config, networks.read_weights(folder, role=role), folder=folder, role=role)
    shape = (channels, height, width)
    interface = networks.interface(config, folder, num_classes=embeds - 1, image_shape=shape, role=role)
    return TorchDenoiser(unet, interface)
