"""A DiT student cut out of a DiT teacher: the blocks, heads and channels that matter most.

Depth is chosen by what each block does: it is left out, and the change of both branches and of their gap is measured on
noised training images. Heads and MLP channels are chosen by the norms of their weights (or at random). The channels of
the residual stream carry the tokens' positions as sines and cosines of fixed frequencies, so a narrower student takes
those whose frequencies are nearest to its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from dashdeploy import seeds
from dashdeploy.diffusion.denoiser import TorchDenoiser
from dashdeploy.recipe.initialisation import Pruned
from dashdeploy.students.pruning import Draw
from dashdeploy.teachers import networks

Rows = torch.Tensor
"""Row numbers of a teacher's weight, (n,) int64, in the student's order."""
MAY_DIFFER = {"num_layers", "num_attention_heads", "out_channels", "dropout", "sample_size"}
CUT = {"activation_fn": ("gelu-approximate", "gelu"), "norm_elementwise_affine": (False,), "attention_bias": (True,)}
"""The values of a DiT's configuration whose weights `prune` knows how to cut."""
MODULATIONS = 6
"""Vectors that a block's modulation gives: shift, scale and gate of the attention and of the MLP."""


def misfits(student: dict[str, Any], teacher: dict[str, Any]) -> list[str]:
    """Why the student of one configuration cannot be cut out of the teacher of the other; empty: it can."""
    ours, theirs = (_complete(config) for config in (student, teacher))
    problems = [
        f"{key} is {ours[key]}, the teacher's {theirs[key]}"
        for key in sorted(theirs.keys() - MAY_DIFFER)
        if ours.get(key) != theirs[key]
    ]
    problems += [
        f"{key} is {ours[key]}, more than the teacher's {theirs[key]}"
        for key in ("num_layers", "num_attention_heads", "out_channels")
        if ours[key] > theirs[key]
    ]
    problems += [
        f"{key} {theirs[key]} is not supported by pruning, which takes {' or '.join(map(str, values))}"
        for key, values in CUT.items()
        if theirs[key] not in values
    ]
    return problems


def _complete(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration with diffusers' defaults filled in, and only the arguments of the class."""
    with torch.device("meta"):
        known = networks.build(networks.arguments(config), network=networks.DIT)
    return networks.arguments(dict(known.config))


def prune(teacher: TorchDenoiser, config: dict[str, Any], init: Pruned, *, draws: Iterable[Draw], seed: int) -> Any:
    """The teacher's weights in a DiT of `config`, on the CPU, in train mode; a function of the arguments.

    Args:
        config: of a student without `misfits`, which predicts what the teacher does.
        draws: noised training images; read if the student has fewer blocks.
    """
    student: Any = networks.create(networks.arguments(config), network=networks.DIT)
    given: Any = teacher.unet
    depth, all_blocks = student.config.num_layers, range(given.config.num_layers)
    generator = torch.Generator().manual_seed(seeds.derive(seed, "pruned"))
    blocks = list(all_blocks)
    if depth < len(all_blocks):
        effects = (
            block_effects(teacher, draws)
            if init.importance != "random"
            else torch.rand(len(blocks), generator=generator)
        )
        effects[0] = torch.inf  # the last layer takes its embedding of t and y from the first block
        blocks = sorted(effects.argsort(descending=True, stable=True)[:depth].tolist())
    state = {name: tensor.detach().cpu().float() for name, tensor in given.state_dict().items()}
    cut = _Cut(state, given.config, student.config, None if init.importance != "random" else generator)
    made = cut.outside(first=0)
    for here, there in enumerate(blocks):
        made |= cut.block(here, there)
    student.load_state_dict(made)
    return networks.with_own_keys(student, config)


@torch.no_grad()
def block_effects(teacher: TorchDenoiser, draws: Iterable[Draw]) -> torch.Tensor:
    """(L,): what leaving out each block changes, the relative errors of both branches and of the gap together."""
    blocks = teacher.unet.transformer_blocks
    changed = torch.zeros(len(blocks), 3, dtype=torch.float64)
    whole = torch.zeros(3, dtype=torch.float64)
    for draw in draws:
        uncond, cond = teacher.branches(draw.x_t, draw.t, draw.y)
        kept = (uncond, cond, cond - uncond)
        whole += torch.stack([part.double().square().sum() for part in kept])
        for i, block in enumerate(blocks):
            hook = block.register_forward_hook(lambda module, inputs, output: inputs[0])
            try:
                uncond, cond = teacher.branches(draw.x_t, draw.t, draw.y)
            finally:
                hook.remove()
            without = (uncond, cond, cond - uncond)
            changed[i] += torch.stack([(a - b).double().square().sum() for a, b in zip(without, kept, strict=True)])
    return (changed / whole.clamp(min=1e-30)).sqrt().sum(1)


class _Cut:
    """The student's weights, part by part."""

    def __init__(
        self, state: dict[str, torch.Tensor], teacher: Any, student: Any, generator: torch.Generator | None
    ) -> None:
        self.state, self.generator = state, generator
        self.head = teacher.attention_head_dim
        self.wide, self.narrow = (c.num_attention_heads * self.head for c in (teacher, student))
        self.heads = student.num_attention_heads
        self.stream = positions(self.wide, self.narrow)
        self.outputs = self._outputs(teacher, student)

    @staticmethod
    def _outputs(teacher: Any, student: Any) -> Rows:
        """Rows of the last layer: of each pixel of a patch the first channels, without a learned variance."""
        patch, (many, few) = teacher.patch_size**2, (c.out_channels or c.in_channels for c in (teacher, student))
        return (torch.arange(patch)[:, None] * many + torch.arange(few)).flatten()

    def outside(self, *, first: int) -> dict[str, torch.Tensor]:
        """What is in no block; its modulation reads the embedding of the block `first`."""
        embedding = self._embedding(first)
        both = torch.cat([self.stream, self.wide + self.stream])  # shift and scale
        return {
            "pos_embed.proj.weight": self.state["pos_embed.proj.weight"][self.stream],
            "pos_embed.proj.bias": self.state["pos_embed.proj.bias"][self.stream],
            **self._linear("proj_out_1", "proj_out_1", both, embedding),
            **self._linear("proj_out_2", "proj_out_2", self.outputs, self.stream),
        }

    def block(self, here: int, there: int) -> dict[str, torch.Tensor]:
        """A block of the student from a block of the teacher."""
        ours, theirs = f"transformer_blocks.{here}", f"transformer_blocks.{there}"
        embedding, heads, hidden = self._embedding(there), self._heads(theirs), self._hidden(theirs)
        times = f"{theirs}.norm1.emb.timestep_embedder"
        inner = self._best(self._norm(f"{times}.linear_1", 1) * self._norm(f"{times}.linear_2", 0), self.narrow)
        table = self.state[f"{theirs}.norm1.emb.class_embedder.embedding_table.weight"]
        modulation = (torch.arange(MODULATIONS)[:, None] * self.wide + self.stream).flatten()
        made = {
            f"{ours}.norm1.emb.class_embedder.embedding_table.weight": table[:, embedding],
            **self._linear(f"{ours}.norm1.emb.timestep_embedder.linear_1", f"{times}.linear_1", inner, None),
            **self._linear(f"{ours}.norm1.emb.timestep_embedder.linear_2", f"{times}.linear_2", embedding, inner),
            **self._linear(f"{ours}.norm1.linear", f"{theirs}.norm1.linear", modulation, embedding),
            **self._linear(f"{ours}.attn1.to_out.0", f"{theirs}.attn1.to_out.0", self.stream, heads),
            **self._linear(f"{ours}.ff.net.0.proj", f"{theirs}.ff.net.0.proj", hidden, self.stream),
            **self._linear(f"{ours}.ff.net.2", f"{theirs}.ff.net.2", self.stream, hidden),
        }
        for name in ("to_q", "to_k", "to_v"):
            made |= self._linear(f"{ours}.attn1.{name}", f"{theirs}.attn1.{name}", heads, self.stream)
        return made

    def _embedding(self, block: int) -> Rows:
        """Channels of the embedding of t and y: those that the block's modulation weighs most."""
        return self._best(self._norm(f"transformer_blocks.{block}.norm1.linear", 0), self.narrow)

    def _heads(self, block: str) -> Rows:
        """Channels of the heads that add most to the residual stream."""
        each = self._norm(f"{block}.attn1.to_v", 1) * self._norm(f"{block}.attn1.to_out.0", 0)
        kept = self._best(each.view(-1, self.head).square().sum(1), self.heads)
        return (kept[:, None] * self.head + torch.arange(self.head)).flatten()

    def _hidden(self, block: str) -> Rows:
        """Channels within the MLP."""
        each = self._norm(f"{block}.ff.net.0.proj", 1) * self._norm(f"{block}.ff.net.2", 0)
        return self._best(each, len(each) * self.narrow // self.wide)

    def _norm(self, layer: str, dim: int) -> torch.Tensor:
        """Norm of a weight over its inputs (1) or its outputs (0)."""
        return self.state[f"{layer}.weight"].norm(dim=dim)

    def _best(self, importance: torch.Tensor, count: int) -> Rows:
        """The most important rows, in their order; at random where a generator is given."""
        if self.generator is not None:
            importance = torch.rand(len(importance), generator=self.generator)
        return importance.argsort(descending=True, stable=True)[:count].sort().values

    def _linear(self, ours: str, theirs: str, rows: Rows, columns: Rows | None) -> dict[str, torch.Tensor]:
        weight = self.state[f"{theirs}.weight"][rows]
        weight = weight if columns is None else weight[:, columns]
        return {f"{ours}.weight": weight.clone(), f"{ours}.bias": self.state[f"{theirs}.bias"][rows].clone()}


def positions(wide: int, narrow: int) -> Rows:
    """Channels of a stream of `wide` whose positions are nearest to those of a stream of `narrow`.

    The channels are sines and cosines of the row and of the column, a quarter each, of falling frequencies
    10000^(−k/n), k = 0 … n − 1.
    """
    many, few = wide // 4, narrow // 4
    nearest = (torch.arange(few) * (many / few)).round().long().clamp(max=many - 1)
    return (torch.arange(4)[:, None] * many + nearest).flatten()
