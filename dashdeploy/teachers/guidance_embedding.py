"""The guidance scale as an input of a network: an embedding of w that is added to that of the label.

One branch takes the place of two (Meng et al. 2023, arXiv:2210.03142). The embedding of w is 0 in a new network, which
so begins as a conditional branch. For one w it is a constant, and can be folded into the embedding of the labels: what
is left is a plain network of diffusers.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.embeddings import LabelEmbedding
from torch import nn

from dashdeploy.errors import UserError

FREQUENCIES = 8
"""cos(π·k·u) for k = 0 … 7 and u = (w − low)/(high − low): smooth over the range, and 0 … 1 in half precision too."""
WIDTH = 64
KEY = "guidance_range"
"""Of config.json: [low, high] of a network of one branch."""


class LabelAndGuidance(nn.Module):
    """(y (B,) int64, w (B,) float32) -> (B, D): the embedding of the label plus that of w."""

    def __init__(self, labels: nn.Module, dim: int, *, low: float, high: float) -> None:
        super().__init__()
        self.labels, self.low, self.high = labels, low, high
        self.scale = nn.Sequential(nn.Linear(FREQUENCIES, WIDTH), nn.SiLU(), nn.Linear(WIDTH, dim))
        for parameter in self.scale[2].parameters():
            nn.init.zeros_(parameter)

    def forward(self, condition: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        y, w = condition
        labels: torch.Tensor = self.labels(y)
        return labels + self.of(w).to(labels.dtype)

    def of(self, w: torch.Tensor) -> torch.Tensor:
        """The embedding of w (B,): (B, D), in the type of its weights."""
        u = (w.float() - self.low) / (self.high - self.low)
        k = torch.arange(FREQUENCIES, dtype=torch.float32, device=w.device)
        weight = next(self.scale.parameters())
        embedded: torch.Tensor = self.scale(torch.cos(torch.pi * u[:, None] * k).to(weight.dtype))
        return embedded


def add(network: Any, guidance_range: tuple[float, float]) -> Any:
    """The same network with (y, w) in place of y: it is changed in place, and its configuration says so.

    Raises:
        UserError: the scales are not 0 ≤ low < high.
    """
    low, high = guidance_range
    if not 0 <= low < high:
        raise UserError(f"{KEY} [{low:g}, {high:g}]: expected two guidance scales, 0 ≤ low < high")
    for parent, name in embeddings(network):
        labels = getattr(parent, name)
        setattr(parent, name, LabelAndGuidance(labels, _table(labels).embedding_dim, low=low, high=high))
    network.register_to_config(**{KEY: [low, high]})
    return network


@torch.no_grad()
def folded(network: Any, w: float) -> dict[str, torch.Tensor]:
    """The weights of the plain network that computes what this one does at one w."""
    constants = {}
    for module, name in embeddings(network):
        both = getattr(module, name)
        constants[both] = both.of(torch.full((1,), w, device=both.scale[0].weight.device))
    names = {module: name for name, module in network.named_modules()}
    state = dict(network.state_dict())
    for both, constant in constants.items():
        prefix = names[both]
        for key in [key for key in state if key.startswith(f"{prefix}.")]:
            value, rest = state.pop(key), key.removeprefix(f"{prefix}.")
            if rest.startswith("labels."):
                state[f"{prefix}.{rest.removeprefix('labels.')}"] = value + constant
    return state


def unfolded(network: Any, plain: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights of a plain network under the names that `network`, of one branch, has, with its embeddings of w."""
    names = {module: name for name, module in network.named_modules()}
    state, own = dict(plain), network.state_dict()
    for module, name in embeddings(network):
        prefix = names[getattr(module, name)]
        for key in [key for key in state if key.startswith(f"{prefix}.")]:
            state[f"{prefix}.labels.{key.removeprefix(f'{prefix}.')}"] = state.pop(key)
    return {**{key: value for key, value in own.items() if key not in state}, **state}


def embeddings(network: Any) -> list[tuple[nn.Module, str]]:
    """Where a network embeds its label: (module, attribute). A UNet does it once, a DiT in every block."""
    if getattr(network, "class_embedding", None) is not None:
        return [(network, "class_embedding")]
    return [
        (module, "class_embedder")
        for module in network.modules()
        if isinstance(getattr(module, "class_embedder", None), LabelEmbedding | LabelAndGuidance)
    ]


def _table(labels: nn.Module) -> nn.Embedding:
    table = labels.embedding_table if isinstance(labels, LabelEmbedding) else labels
    assert isinstance(table, nn.Embedding)
    return table
