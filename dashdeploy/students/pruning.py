"""A student cut out of its teacher: blocks by `blocks.py`, channels by structured pruning with torch-pruning.

The library traces which channels must go together (residual sums, skip connections, GroupNorm, attention). This file
decides how many stay, by the student's shapes, and which, by their importance (arXiv:2301.12900, 2305.10924).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

import torch
from diffusers import UNet2DModel
from diffusers.models.attention_processor import Attention
from torch import nn

from dashdeploy import seeds
from dashdeploy.diffusion.denoiser import TorchDenoiser
from dashdeploy.lazy import require
from dashdeploy.recipe.initialisation import Pruned
from dashdeploy.students import blocks
from dashdeploy.teachers import networks

Group = Any
"""A torch-pruning Group: (dependency, indices) pairs, the root first."""


class Draw(Protocol):
    """A noised batch. x_t and what the teacher should predict, `target`: (B, C, H, W) float32; t, y: (B,) int64."""

    @property
    def x_t(self) -> torch.Tensor: ...
    @property
    def t(self) -> torch.Tensor: ...
    @property
    def y(self) -> torch.Tensor: ...
    @property
    def target(self) -> torch.Tensor: ...


def prune(teacher: TorchDenoiser, config: dict[str, Any], init: Pruned, *, draws: Iterable[Draw], seed: int) -> Any:
    """The teacher's weights in a `UNet2DModel` of `config`, on the CPU, in train mode; a function of the arguments.

    Args:
        config: of a student without `blocks.misfits`, which predicts what the teacher does.
        draws: noised training images; only importance taylor reads them.

    Raises:
        UserError: torch-pruning is not installed.
    """
    tp = require("torch_pruning", extra="prune")
    student: Any = UNet2DModel(**networks.arguments(config))
    network = blocks.shallower(teacher.unet, config["layers_per_block"])
    blocks.add_shortcuts(network, like=student)
    graph = _trace(tp, network)
    groups = _groups(graph)
    scores = _scores(tp, groups, init, TorchDenoiser(network, teacher.interface), draws=draws, seed=seed)
    names = {module: name for name, module in network.named_modules()}
    for group, score in zip(groups, scores, strict=True):
        root = group[0].dep
        name = names[root.target.module]
        channels = _dropped(group, score, name, len(student.get_submodule(name).weight), network)
        if channels:
            graph.get_pruning_group(root.target.module, root.handler, channels).prune()
    _prune_frequencies(tp, network, student)
    student.load_state_dict(network.state_dict())
    return networks.with_own_keys(student, config)


def _trace(tp: Any, network: Any) -> Any:
    """The network's dependency graph; the outputs are the image's channels and stay."""
    size, channels = network.config["sample_size"], network.config["in_channels"]
    height, width = (size, size) if isinstance(size, int) else size
    inputs = (torch.zeros(1, channels, height, width), torch.zeros(1, dtype=torch.long), torch.zeros(1).long())
    with torch.enable_grad():
        return tp.DependencyGraph().build_dependency(
            network, inputs, forward_fn=lambda unet, given: unet(*given, return_dict=False)[0]
        )


def _groups(graph: Any) -> list[Group]:
    """The groups of coupled channels: first those that a convolution roots, then those that have linear layers only.

    With scale_shift a linear layer gives two numbers for each channel of a convolution; as a root it would have twice
    as many channels as there are to choose from.
    """
    convolutions = [module for module in graph.model.modules() if isinstance(module, nn.Conv2d)]
    return [
        *graph.get_all_groups(root_module_types=[nn.Conv2d]),
        *graph.get_all_groups(root_module_types=[nn.Linear], ignored_layers=convolutions),
    ]


def _scores(
    tp: Any, groups: list[Group], init: Pruned, denoiser: TorchDenoiser, *, draws: Iterable[Draw], seed: int
) -> list[torch.Tensor]:
    """Importance of each group's channels, by the index in its root: (channels,) each."""
    if init.importance == "random":
        generator = torch.Generator().manual_seed(seeds.derive(seed, "pruned"))
        return [torch.rand(len(group[0].idxs), generator=generator) for group in groups]
    if init.importance == "magnitude":
        score: Callable[[Group], torch.Tensor] = tp.importance.GroupMagnitudeImportance(p=2, normalizer=None)
        return [score(group) for group in groups]
    score = tp.importance.GroupTaylorImportance(normalizer=None)
    total = [torch.zeros(len(group[0].idxs)) for group in groups]
    for draw in draws:
        denoiser.zero_grad()
        with torch.enable_grad():
            uncond, cond = denoiser.branches(draw.x_t, draw.t, draw.y)
            errors = (uncond - draw.target).square() + (cond - draw.target).square()
            errors.flatten(1).mean(1).sum().backward()
        total = [sum_ + score(group) for sum_, group in zip(total, groups, strict=True)]
    return total


def _dropped(group: Group, scores: torch.Tensor, root: str, width: int, network: Any) -> list[int]:
    """The channels of a group's root to remove, so that the `width` most important ones stay.

    The same number stays in each group of a GroupNorm, so that those normalised together stay together. Where attention
    has several heads, whole heads stay.
    """
    head = _head_size(root, network)
    normalised = any(isinstance(dep.target.module, nn.GroupNorm) for dep, _ in group)
    parts = network.config["norm_num_groups"] if normalised else 1
    units = scores.view(parts, -1, head).sum(2)
    kept = units.argsort(dim=1, descending=True, stable=True)[:, : width // (parts * head)]
    stays = torch.zeros_like(units, dtype=torch.bool).scatter_(1, kept, True)
    return (~stays.unsqueeze(2).expand(-1, -1, head).flatten()).nonzero().flatten().tolist()


def _head_size(root: str, network: Any) -> int:
    """Channels of a head, where a group's root gives the query, key or value of several; else 1."""
    parent, _, layer = root.rpartition(".")
    if layer not in ("to_q", "to_k", "to_v"):
        return 1
    attention = network.get_submodule(parent)
    assert isinstance(attention, Attention)
    return attention.inner_dim // attention.heads if attention.heads > 1 else 1


def _prune_frequencies(tp: Any, network: Any, student: Any) -> None:
    """Keep the time embedding's inputs (sines and cosines of fixed frequencies) that are nearest to the student's."""
    if student.time_proj.num_channels == network.time_proj.num_channels:
        return
    layer = network.time_embedding.linear_1
    many, few = (unet.time_proj.num_channels // 2 for unet in (network, student))
    shift = network.time_proj.downscale_freq_shift
    nearest = (torch.arange(few) * ((many - shift) / max(few - shift, 1))).round().long().clamp(max=many - 1)
    kept = {*nearest.tolist(), *(many + nearest).tolist()}
    tp.prune_linear_in_channels(layer, [i for i in range(layer.in_features) if i not in kept])
