"""A teacher's hash, without opening it."""

from __future__ import annotations

from pathlib import Path

from dashdeploy import stages

CONFIGS = ("config.json", "scheduler_config.json")


def sha256(folder: Path) -> str:
    """A teacher's hash: over its tensors (weights and λ) and its model and scheduler configuration.

    Raises:
        UserError: there are none, or its links lead in a circle.
    """
    return stages.folder_sha256(folder, keep=lambda path: path.suffix == ".safetensors" or path.name in CONFIGS)
