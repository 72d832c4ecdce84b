"""A cache of generated images, so that a model is not sampled twice with the same settings.

A teacher's folder may hold such images (`samples/`), which the benchmark made once: drawing them takes by far the
longest part of measuring a student.
"""

from __future__ import annotations

import os
import tempfile
import zipfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from dashdeploy import stages
from dashdeploy.diffusion import noise
from dashdeploy.diffusion.sampling import Plan

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
        try:
            with np.load(path, allow_pickle=False) as file:
                images, stored = file["images"], str(file["key"])
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):
            continue
        if stored == name and images.shape == shape and images.dtype == np.uint8:
            return torch.from_numpy(images)
    return None


def save(folder: Path, name: str, images: torch.Tensor) -> None:
    """Write images for `load`, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(dir=folder, suffix=".part")
    with os.fdopen(handle, "wb") as file:
        np.savez_compressed(file, images=images.numpy(), key=np.array(name))
    Path(part).chmod(0o644)
    Path(part).replace(folder / f"{name[:16]}.npz")
