"""Class-conditional `DiTTransformer2DModel`s (Peebles & Xie 2023) in diffusers format: configure and load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dashdeploy.diffusion.denoiser import TorchDenoiser
from dashdeploy.errors import UserError
from dashdeploy.recipe.architecture import DiT
from dashdeploy.teachers import networks

EMBEDDER = "transformer_blocks.0.norm1.emb.class_embedder"
TABLES = (f"{EMBEDDER}.embedding_table.weight", f"{EMBEDDER}.labels.embedding_table.weight")
"""The embedding of the labels, in a network of two branches and of one."""


def dit_config(
    architecture: DiT, *, image_shape: tuple[int, int, int], num_classes: int, key: str = "student.dit"
) -> dict[str, Any]:
    """`DiTTransformer2DModel` arguments of a recipe's architecture; diffusers adds the null class, label K, itself.

    Args:
        key: the recipe's, for messages.

    Raises:
        UserError: the patch size does not divide the image's.
    """
    channels, size, _ = image_shape
    if size % architecture.patch_size:
        raise UserError(
            f"{key}.patch_size {architecture.patch_size} does not divide images or latents of side {size}: choose one "
            "that does, or set data.image_size to a multiple of it"
        )
    return {
        "sample_size": size,
        "in_channels": channels,
        "out_channels": channels,
        "patch_size": architecture.patch_size,
        "num_layers": architecture.num_layers,
        "num_attention_heads": architecture.num_attention_heads,
        "attention_head_dim": architecture.attention_head_dim,
        "num_embeds_ada_norm": num_classes,
    }


def load(folder: Path, *, role: str = "teacher") -> TorchDenoiser:
    """Open a `DiTTransformer2DModel` with its scheduler, in eval mode and float32.

    `folder` holds `transformer/` and `scheduler/` (a DiTPipeline) or `config.json` beside `scheduler_config.json`.
    num_embeds_ada_norm is K; row K of the embedding is the null class. With 2C output channels the variance is learned,
    and the first C are eps. A model that was trained on latents takes latents: the recipe's data must be latents too.

    Raises:
        UserError: anything missing, damaged or not trained with a null class; the message says what to do.
    """
    where = networks.folder_of(folder)
    config = networks.read_config(folder, role=role)
    num_classes, size, channels = (config.get(key) for key in ("num_embeds_ada_norm", "sample_size", "in_channels"))
    missing = [
        key
        for key, value in (("num_embeds_ada_norm", num_classes), ("sample_size", size), ("in_channels", channels))
        if not isinstance(value, int) or value < 1
    ]
    if missing:
        raise UserError(
            f"{role} {where / 'config.json'}: {', '.join(missing)} must be given as whole numbers: the number of "
            "classes K, the side of the images or latents, their channels"
        )
    assert isinstance(num_classes, int) and isinstance(size, int) and isinstance(channels, int)
    networks.check_out_channels(
        config.get("out_channels") or channels, channels, source=f"{role} {where / 'config.json'}"
    )
    state = networks.read_weights(folder, role=role)
    rows = next((len(state[table]) for table in TABLES if table in state), num_classes + 1)
    if rows == num_classes:
        raise UserError(
            f"{role} {where}: the class embedding has {rows} rows for {rows} classes and none for the null class: "
            "it was not trained for classifier-free guidance. Train it with label dropout; diffusers' DiT then has one "
            "more row."
        )
    if rows != num_classes + 1:
        raise UserError(
            f"{role} {where}: the class embedding has {rows} rows, and num_embeds_ada_norm {num_classes} means "
            f"{num_classes + 1} with the null class. Set num_embeds_ada_norm to {rows - 1}."
        )
    network = networks.restore(config, state, folder=folder, role=role)
    shape = (channels, size, size)
    interface = networks.interface(config, folder, num_classes=num_classes, image_shape=shape, role=role)
    return TorchDenoiser(network, interface)
