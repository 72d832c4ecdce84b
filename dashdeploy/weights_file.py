"""Safetensors files: one that is damaged, or holds weights that are not numbers, is a user's error."""

from __future__ import annotations

import errno
import io
import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save

from dashdeploy.errors import UserError, reading

STEM, SUFFIXES, VARIANTS = "diffusion_pytorch_model", ("safetensors", "bin"), ("", "fp16", "bf16")
"""diffusers' name of weights, how its files end, and what a variant adds to it: full precision comes first."""


def names_of(variant: str, suffix: str) -> tuple[str, str]:
    """How diffusers calls weights of one of VARIANTS and SUFFIXES: whole, and the index of their shards."""
    whole, index = (STEM, variant, suffix), (STEM, suffix, "index", variant, "json")
    return ".".join(filter(None, whole)), ".".join(filter(None, index))


def read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """Load a safetensors file.

    Raises:
        UserError: it is damaged or not there, or a tensor holds NaN or Inf.
    """
    with reading(path, "safetensors file"):
        tensors = load_file(path)
    require_finite(tensors, source=path, advice="Its training diverged, or the file is damaged. Take another.")
    return tensors


def read_pickled(path: Path, *, source: object, what: str, advice: str) -> Any:
    """Load a file of torch.save that holds tensors, numbers and containers of them; no code in it is run.

    Args:
        source: what it is, for the message.
        what: what the file should be, as in "checkpoint of tensors".
        advice: how to save it so that it can be read, for the message.

    Raises:
        UserError: it is damaged, or holds what only its code would read.
    """
    with reading(path, what, again="Copy it again."):
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, OSError) as error:
            if isinstance(error, OSError) and error.errno != errno.EINVAL:  # EINVAL: a seek beyond a cut file's start
                raise
            # What torch says is advice to run what is in the file.
            raise UserError(
                f"{source}: is damaged, or holds more than tensors and numbers, which only running its code would "
                f"read. Code is never run here: where the file is from, {advice}."
            ) from error


def write_safetensors(path: Path, tensors: dict[str, torch.Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file: the same bytes for the same values, so that its hash is an identity.

    The library writes metadata of several keys in an order that is another in every process.
    """
    whole = io.BytesIO(save(tensors))
    length = int.from_bytes(whole.read(8), "little")
    header = {"__metadata__": dict(sorted(metadata.items())), **json.loads(whole.read(length))}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8
    path.write_bytes(len(text).to_bytes(8, "little") + text + whole.read())


def require_finite(tensors: Mapping[str, torch.Tensor], *, source: object, advice: str) -> None:
    """Refuse weights that are NaN or infinite.

    Args:
        source: what holds them, for the message.
        advice: what to do, for the message.

    Raises:
        UserError: it names the first such tensor, and how many there are.
    """
    bad = [name for name, tensor in tensors.items() if not _wide(tensor).isfinite().all()]
    if bad:
        others = f" (and {len(bad) - 1} other tensors)" if len(bad) > 1 else ""
        raise UserError(f"{source}: {bad[0]}{others} holds NaN or Inf. {advice}")


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor in a type that torch computes with: numbers of 8 bits are only stored."""
    return tensor.float() if tensor.is_floating_point() and tensor.element_size() < 2 else tensor
