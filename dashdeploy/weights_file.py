"""Reading safetensors files; a damaged file is a user's error."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from dashdeploy.errors import UserError


def read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """Load a safetensors file.

    Raises:
        UserError: it is damaged or not there.
    """
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path}: not a whole safetensors file ({error}; {path.stat().st_size if path.exists() else 0} bytes). "
            "Copy it again, or make it again."
        ) from error
