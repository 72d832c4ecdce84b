"""Latents from .npz files, encoded beforehand by any autoencoder."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dashdeploy.data.images import LabelledImages, plain_name
from dashdeploy.errors import UserError, reading
from dashdeploy.locate import expanded
from dashdeploy.recipe.schema import Data

MIRRORED = "mirrored"
"""The array of the mirrored images' latents, in what `encode` has made."""
EXPECTED = "expected arrays latents (N, C, S, S) float16 or float32, labels (N,) integers and perhaps classes (K,)"

MOST_CLASSES = 100_000


def load(config: Data) -> LabelledImages:
    """Read `latents`, `labels` and `classes` from the .npz file `config.path`, or from all of a folder, sorted by name.

    The latents must be scaled as the teacher takes them (those of Stable Diffusion's autoencoder: times 0.18215). Only
    one file needs `classes`, the K names; without them K is the largest label + 1. A mirrored image's latent is close
    to the mirrored latent, but not equal: they are mirrored only where each file has those of the mirrored images, in
    an array `mirrored` of the same shape.

    Raises:
        UserError: no path, no files, missing arrays, other shapes or types; the message names the file.
    """
    if config.path is None:
        raise UserError(f"dataset latents: set data.path to an .npz file or a folder of them; {EXPECTED}")
    path = expanded(config.path)
    files = sorted(path.glob("*.npz")) if path.is_dir() else [path]
    if not files:
        raise UserError(f"{path}: has no .npz files; {EXPECTED}")
    parts = [_read(file) for file in files]
    shapes = {part["latents"].shape[1:] for part in parts}
    if len(shapes) > 1:
        raise UserError(f"{path}: its files hold latents of different shapes: {sorted(shapes)}")
    labels = np.concatenate([part["labels"] for part in parts]).astype(np.int64)
    named = {
        file: [plain_name(str(name)) for name in part["classes"]]
        for file, part in zip(files, parts, strict=True)
        if "classes" in part
    }
    first, *others = named or [path]
    if other := next((file for file in others if named[file] != named[first]), None):
        raise UserError(f"{other}: its classes are not those of {first}, in their order. Label k must mean one class.")
    if not named and labels.max() >= MOST_CLASSES:
        raise UserError(f"{path}: label {labels.max()} would make as many classes. Give the file an array classes.")
    classes = named[first] if named else [str(i) for i in range(labels.max() + 1)]
    mirrored = [part[MIRRORED] for part in parts if MIRRORED in part]
    if mirrored and len(mirrored) < len(parts):
        raise UserError(f"{path}: only {len(mirrored)} of its {len(parts)} files have an array {MIRRORED}")
    return LabelledImages(
        name="latents",
        images=_joined([part["latents"] for part in parts]),
        labels=labels,
        classes=tuple(classes),
        horizontal_flip=bool(mirrored),
        are_latents=True,
        mirrored=_joined(mirrored) if mirrored else None,
    )


def _joined(parts: list[NDArray[Any]]) -> NDArray[Any]:
    """One after the other; a single one itself, which may be as large as the memory."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _read(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a file, each checked."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; {EXPECTED}")
    if not zipfile.is_zipfile(path):
        raise UserError(f"{path}: not a whole .npz file; {EXPECTED}")
    again = f"{EXPECTED[0].upper()}{EXPECTED[1:]}."
    with (
        reading(path, ".npz file without pickled objects", again=again),
        np.load(path, allow_pickle=False) as file,
    ):
        arrays = {name: file[name] for name in ("latents", "labels", "classes", MIRRORED) if name in file.files}
    if missing := {"latents", "labels"} - arrays.keys():
        raise UserError(f"{path}: has no {' and no '.join(sorted(missing))}; {EXPECTED}")
    latents, labels = arrays["latents"], arrays["labels"]
    if latents.dtype not in ("float16", "float32") or latents.ndim != 4 or latents.shape[2] != latents.shape[3]:
        raise UserError(f"{path}: latents is {latents.shape} {latents.dtype}; {EXPECTED}")
    if not latents.size:
        raise UserError(f"{path}: latents is {latents.shape}, which holds no value; {EXPECTED}")
    mirrored = arrays.get(MIRRORED, latents)
    if (mirrored.shape, mirrored.dtype) != (latents.shape, latents.dtype):
        raise UserError(
            f"{path}: {MIRRORED} is {mirrored.shape} {mirrored.dtype}; expected {latents.shape} {latents.dtype}"
        )
    if labels.shape != latents.shape[:1] or labels.dtype.kind not in "iu" or not len(labels):
        raise UserError(f"{path}: labels is {labels.shape} {labels.dtype} for {len(latents)} latents; {EXPECTED}")
    if not 0 <= labels.min() <= labels.max() < 2**63:
        raise UserError(f"{path}: labels go from {labels.min()} to {labels.max()}; expected class numbers, from 0 on")
    names = arrays.get("classes", np.array(["any"]))
    if names.ndim != 1 or not len(names):
        raise UserError(f"{path}: classes is {names.shape} {names.dtype}; {EXPECTED}")
    for name, array in (("latents", latents), (MIRRORED, mirrored)):
        if not np.isfinite(array).all():
            raise UserError(f"{path}: {name} holds NaN or Inf")
    return arrays
