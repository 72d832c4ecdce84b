"""Which row of a teacher's label embedding is which class: the data's order, and the null class last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from diffusers.models.embeddings import LabelEmbedding
from torch import nn

from dashdeploy.diffusion.denoiser import TorchDenoiser
from dashdeploy.errors import UserError
from dashdeploy.recipe.schema import Teacher

COUNTS = {"num_class_embeds": 0, "num_embeds_ada_norm": 1}
"""A configuration's key -> the rows of the embedding that it does not count."""


def chosen(section: Teacher, num_rows: int) -> tuple[int, ...]:
    """(K + 1) rows of an embedding of `num_rows`: that of each class as the recipe says, and the null class's last.

    Raises:
        UserError: a row that the embedding does not have.
    """
    null = num_rows - 1 if section.null_class is None else section.null_class
    given = {"null_class": (null,), "labels": section.labels or ()}
    for key, rows in given.items():
        if bad := [row for row in rows if row >= num_rows]:
            raise UserError(
                f"teacher.{key}: the teacher's label embedding has no row {bad[0]}; its rows are 0..{num_rows - 1}"
            )
    labels = section.labels or tuple(row for row in range(num_rows) if row != null)
    if null in labels:
        raise UserError(f"teacher.labels: row {null} is the null class's, which teacher.null_class names")
    return (*labels, null)


def take(denoiser: TorchDenoiser, rows: Sequence[int]) -> TorchDenoiser:
    """The denoiser with these rows of its label embedding as its labels 0..K: row rows[y] is label y, and K is null."""
    network = denoiser.unet
    if tuple(rows) == tuple(range(denoiser.interface.num_classes + 1)):
        return denoiser
    for module in network.modules():
        if isinstance(module, LabelEmbedding):
            module.embedding_table, module.num_classes = _picked(module.embedding_table, rows), len(rows) - 1
    if isinstance(embedding := getattr(network, "class_embedding", None), nn.Embedding):
        network.class_embedding = _picked(embedding, rows)
    network.register_to_config(**configured(dict(network.config), rows))
    interface = replace(denoiser.interface, num_classes=len(rows) - 1)
    return denoiser.around(network, interface)


def number(config: dict[str, Any]) -> int:
    """Rows of the label embedding of a network of this configuration; 0: it has none."""
    counts = [(config.get(key), uncounted) for key, uncounted in COUNTS.items()]
    return next((count + uncounted for count, uncounted in counts if isinstance(count, int)), 0)


def configured(config: dict[str, Any], rows: Sequence[int]) -> dict[str, Any]:
    """What of a network's configuration says how many rows there are, with the number of these rows."""
    return {key: len(rows) - uncounted for key, uncounted in COUNTS.items() if config.get(key)}


def _picked(embedding: nn.Embedding, rows: Sequence[int]) -> nn.Embedding:
    with torch.no_grad():
        return nn.Embedding.from_pretrained(embedding.weight[list(rows)].clone(), freeze=True)
