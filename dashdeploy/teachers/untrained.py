"""The network that a recipe's `teach` section asks for, before it is trained: a UNet or a DiT."""

from __future__ import annotations

from typing import Any

import torch

from dashdeploy.recipe.schema import Teach
from dashdeploy.teachers import networks, unet2d
from dashdeploy.teachers.dit import dit_config

Shape = tuple[int, int, int]


def config_of(section: Teach, *, image_shape: Shape, num_classes: int) -> dict[str, Any]:
    """The configuration of the network, with its class name.

    Raises:
        UserError: images or latents of this shape do not fit it.
    """
    if section.dit is not None:
        config = dit_config(section.dit, image_shape=image_shape, num_classes=num_classes, key="teach.dit")
        return {**config, "_class_name": networks.DIT}
    unet2d.check_levels(section.architecture, image_shape)
    config = unet2d.unet_config(section.architecture, image_shape=image_shape, num_classes=num_classes)
    return {**config, "_class_name": networks.UNET}


def build(section: Teach, *, image_shape: Shape, num_classes: int, seed: int) -> Any:
    """The network in train mode; its weights depend on the seed alone."""
    config = config_of(section, image_shape=image_shape, num_classes=num_classes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return networks.create(networks.arguments(config), network=config["_class_name"])
