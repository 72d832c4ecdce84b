"""Open a model folder by the adapter for the class that its config.json names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dashdeploy.diffusion.denoiser import TorchDenoiser
from dashdeploy.errors import UserError
from dashdeploy.lazy import resolve
from dashdeploy.teachers import TEACHER_FORMATS, networks, paths
from dashdeploy.teachers.networks import UNET, read_config


def load(folder: Path, *, role: str) -> TorchDenoiser:
    """The model in `folder`, in eval mode and float32; `role` (teacher, student) is what messages call it.

    Raises:
        UserError: missing or damaged files, or a model class without an adapter.
    """
    name = config_of(folder, role=role).get("_class_name", UNET)
    denoiser: TorchDenoiser = resolve("teacher format", TEACHER_FORMATS, name)(folder, role=role)
    path = networks.path_of(folder, role)
    return denoiser if path is None else paths.PathDenoiser(denoiser.unet, denoiser.interface, path)


def config_of(folder: Path, *, role: str) -> dict[str, Any]:
    """The configuration of the model in `folder`, of a class that has an adapter.

    Raises:
        UserError: it is missing or not valid, or of another class.
    """
    config = read_config(folder, role=role)
    name = config.get("_class_name", UNET)
    if not isinstance(name, str) or name not in TEACHER_FORMATS:
        raise UserError(
            f"{role} {folder}: it is a {name}; supported are class-conditional networks: "
            f"{', '.join(sorted(TEACHER_FORMATS))}"
        )
    return config
