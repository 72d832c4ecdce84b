"""A cache of generated images, so that a model is not sampled twice with the same settings.

A teacher's folder may hold such images (`samples/`), which the benchmark made once: drawing them takes by far the
longest part of measuring a student.
"""

from __future__ import annotations

import zipfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from dashdeploy import stages
from dashdeploy.diffusion import noise
from dashdeploy.diffusion.sampling import Plan
from dashdeploy.terminal import warn

FOLDER = "samples"


def key(model_sha256: str, plan: Plan, *, labels: torch.Tensor, seed: int) -> str:
    """Identity of a set of samples: the model's hash, the images' labels and every setting that changes an image."""
    settings = {"model": model_sha256, "labels": labels.tolist(), "noise": noise.NAME, "seed": seed}
    return stages.digest({**settings, "plan": asdict(plan)})


def load(folders: list[Path], name: str, *, shape: tuple[int, int, int, int]) -> torch.Tensor | None:
    """Images, uint8 of `shape`, from the first folder that holds them undamaged; else None."""
    for folder in folders:
        path = folder / f"{name[:16]}.npz"
        if not path.is_file():
            continue
        if (images := _read(path, name)) is None:
            warn(f"{path}: damaged (see {path.name}.sha256); its images are drawn again")
        elif images.shape == shape:
            return torch.from_numpy(images)
    return None


def _read(path: Path, name: str) -> NDArray[np.uint8] | None:
    """The images of a file, uint8; none of them where another set has its name; None: it is damaged."""
    if not stages.undamaged(path):
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            images, stored = file["images"], str(file["key"])
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None
    return images if stored == name and images.dtype == np.uint8 else np.empty(0, np.uint8)


def save(folder: Path, name: str, images: torch.Tensor) -> None:
    """Write images for `load`, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name[:16]}.npz"
    with (
        stages.in_turn(folder / "lock", what="a set of images"),
        stages.replacing(path) as part,
        part.open("wb") as file,
    ):
        np.savez_compressed(file, images=images.numpy(), key=np.array(name))
