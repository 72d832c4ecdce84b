"""Reading safetensors files; a damaged file is a user's error."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

from dashdeploy.errors import reading


def read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """Load a safetensors file.

    Raises:
        UserError: it is damaged or not there.
    """
    with reading(path, "safetensors file"):
        return load_file(path)
