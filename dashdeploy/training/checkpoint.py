"""Checkpoints: one file, whole or not there, vouched for by its hash, and read without running any code in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from dashdeploy import stages
from dashdeploy.errors import UserError

FORMAT = 3
FILE = "checkpoint.pt"


def save(folder: Path, state: dict[str, Any], *, key: str) -> None:
    """Write `state` to folder/checkpoint.pt; a kill leaves the old one or the new one."""
    with stages.replacing(folder / FILE) as part:
        torch.save({"format": FORMAT, "key": key, **state}, part)


def load(folder: Path, *, key: str) -> dict[str, Any] | None:
    """The checkpoint in `folder`, or None where there is none.

    Raises:
        UserError: it is damaged, or has another format or key.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    fresh = "Pass --fresh to discard it and start again."
    if not stages.undamaged(path):
        raise UserError(f"{path}: damaged (its SHA-256 is not the one in {FILE}.sha256). {fresh}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(f"{path}: cannot be read ({' '.join(str(error).split())[:200]}). {fresh}") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        version = state.get("format") if isinstance(state, dict) else None
        raise UserError(f"{path}: checkpoint format {version}; this version reads {FORMAT}. {fresh}")
    if state["key"] != key:
        raise UserError(f"{path}: a checkpoint of another recipe (its settings, data or teacher differ). {fresh}")
    return state
