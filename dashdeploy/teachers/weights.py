"""A network's weights as people have them: one safetensors file or shards of it, in half precision, or a .bin file."""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch

from dashdeploy.errors import UserError, reading
from dashdeploy.terminal import say
from dashdeploy.weights_file import (
    STEM,
    SUFFIXES,
    VARIANTS,
    names_of,
    read_pickled,
    read_safetensors,
    require_finite,
)

WEIGHTS, ONE_BRANCH_WEIGHTS = "diffusion_pytorch_model.safetensors", "one_branch.safetensors"
"""The weights; and those of one branch, which diffusers does not know, and would open with random labels."""
STORED = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
SHARD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*\.(safetensors|bin)")
ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Attention weights of a UNet: their names in old files, and diffusers' present ones."""


def files(network: Path) -> list[Path]:
    """The files of a network's folder that hold its weights, in the order of preference: one, or its shards.

    Without any, [the file that is expected].

    Raises:
        UserError: the index of shards is damaged.
    """
    own = network / ONE_BRANCH_WEIGHTS
    if own.is_file():
        return [own]
    for suffix in SUFFIXES:
        for variant in VARIANTS:
            whole, index = (network / name for name in names_of(variant, suffix))
            if whole.is_file():
                return [whole]
            if index.is_file():
                return _shards(index)
    return [network / WEIGHTS]


def _shards(index: Path) -> list[Path]:
    with reading(index, "index of shards in JSON"):
        held = json.loads(index.read_text(encoding="utf-8"))
    names = held.get("weight_map") if isinstance(held, dict) else None
    if not isinstance(names, dict) or not names or not all(isinstance(n, str) for n in names.values()):
        raise UserError(f"{index}: has no weight_map from tensors to files. Copy it again.")
    shards = sorted(set(names.values()))
    if odd := [name for name in shards if not SHARD.fullmatch(name)]:
        raise UserError(f"{index}: names {odd[0][:100]!r}, which is no file beside it")
    return [index.parent / name for name in shards]


def read(network: Path, *, role: str) -> dict[str, torch.Tensor]:
    """The weights in a network's folder in float32, under diffusers' present names.

    Of a .bin file only tensors are read (`torch.load(weights_only=True)`): no code in it is run.

    Raises:
        UserError: no file of a known name, a damaged one, or weights that are no floating-point numbers or not finite.
    """
    found = files(network)
    if missing := [path for path in found if not path.is_file()]:
        raise UserError(
            f"{role} {missing[0]}: no such file. Expected the weights as diffusers' save_pretrained writes them: "
            f"{WEIGHTS}, its shards with their index, a variant (fp16, bf16), or {STEM}.bin."
        )
    state: dict[str, torch.Tensor] = {}
    for path in found:
        part = read_safetensors(path) if path.suffix == ".safetensors" else _read_bin(path, role)
        if twice := state.keys() & part.keys():
            raise UserError(f"{role} {path}: {min(twice)} is in two of the shards. Copy them again.")
        state |= part
    where = found[0] if len(found) == 1 else network
    if odd := [name for name, tensor in state.items() if tensor.dtype not in STORED]:
        dtype = str(state[odd[0]].dtype).removeprefix("torch.")
        raise UserError(
            f"{role} {where}: {odd[0]} is stored as {dtype} ({len(odd)} of {len(state)} tensors are not floating-point "
            "numbers of 16 bits or more). Save the weights before they were quantized."
        )
    in_float32 = {_present_name(name): tensor.float() for name, tensor in state.items()}
    require_finite(in_float32, source=f"{role} {where}", advice="Its values do not fit into float32.")
    return in_float32


def _read_bin(path: Path, role: str) -> dict[str, torch.Tensor]:
    state = read_pickled(
        path, source=f"{role} {path}", what="file of tensors", advice="save it as safetensors (save_pretrained)"
    )
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise UserError(f"{role} {path}: holds no dictionary of tensors. Expected a network's state_dict.")
    require_finite(
        state, source=f"{role} {path}", advice="Its training diverged, or the file is damaged. Take another."
    )
    say(f"{role} {path}: tensors read from a pickle by weights_only, which runs no code in it")
    return {str(name): tensor for name, tensor in state.items()}


def _present_name(name: str) -> str:
    """The name of a UNet's attention weight, which diffusers 0.17 changed; others stay."""
    match = re.fullmatch(r"(.+\.attentions\.\d+)\.(query|key|value|proj_attn)\.(weight|bias)", name)
    return f"{match[1]}.{ATTENTION[match[2]]}.{match[3]}" if match else name
