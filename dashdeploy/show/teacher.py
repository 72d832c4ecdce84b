"""A model's folder in diffusers format: what its configurations and the head of its weights file say."""

from __future__ import annotations

import dataclasses
import json
import math
import struct
from pathlib import Path
from typing import Any

from dashdeploy.errors import UserError, reading, shown
from dashdeploy.show.view import View, pairs, size
from dashdeploy.teachers import TEACHER_FORMATS, identity

NETWORKS = ("unet", "transformer", "")
"""Where the network may lie; "": in the folder itself."""
LAMBDA = "timestep_weights.safetensors"
MOST_HEAD = 100 << 20


def is_model(folder: Path) -> bool:
    """Whether a folder holds a network in diffusers format."""
    return any((folder / name / "config.json").is_file() for name in NETWORKS)


def view(folder: Path) -> View:
    """A teacher, or any model folder, for `dashdeploy show`.

    Raises:
        UserError: a file is damaged.
    """
    network = next(folder / name for name in NETWORKS if (folder / name / "config.json").is_file())
    config = _json(network / "config.json")
    scheduler_file = folder / "scheduler" / "scheduler_config.json"
    scheduler = _json(scheduler_file) if scheduler_file.is_file() else {}
    weights = sorted(network.glob("*.safetensors"))
    rows = config.get("num_class_embeds", config.get("num_embeds_ada_norm"))
    side = config.get("sample_size")
    name = str(config.get("_class_name", "UNet2DModel"))
    data: dict[str, Any] = {
        "folder": folder,
        "network": name,
        "supported": name in TEACHER_FORMATS,
        "parameters": sum(map(_parameters, weights)) if weights else None,
        "size_bytes": sum(path.stat().st_size for path in weights),
        "label_rows": rows,
        "image_shape": [config.get("in_channels"), side, side],
        "schedule": None if scheduler.get("trained_betas") else scheduler.get("beta_schedule"),
        "num_train_timesteps": scheduler.get("num_train_timesteps"),
        "prediction_type": scheduler.get("prediction_type"),
        "lambda": (folder / LAMBDA).is_file(),
        "sha256": identity.sha256(folder),
    }
    steps, schedule = data["num_train_timesteps"], data["schedule"] or "own betas"
    facts = pairs(
        network=name if data["supported"] else f"{name}, which dashdeploy does not open",
        parameters="no weights here" if data["parameters"] is None else f"{data['parameters']:,}",
        size=size(data["size_bytes"]),
        images=f"{config.get('in_channels')} × {side} × {side} (C, H, W)",
        labels="none: the network takes no class" if rows is None else _labels(rows),
        noise="no scheduler here" if not scheduler else f"{schedule}, {steps} timesteps",
        predicts=data["prediction_type"],
        timestep_weights="λ is here" if data["lambda"] else None,
        SHA256=data["sha256"],
    )
    return View(data, (shown(folder), facts))


def meaning(folder: Path, name: str) -> View:
    """Whether a teacher's labels and null class are those of a recipe's data: measured on its held-out images.

    Args:
        name: of the recipe, or its file.

    Raises:
        UserError: the recipe is not valid, or the teacher does not fit its data.
    """
    from dashdeploy.data import load_dataset
    from dashdeploy.recipe.load import load_recipe
    from dashdeploy.teachers import choose, semantics

    recipe = load_recipe(name)
    data = load_dataset(recipe.data)
    opened = choose.open_teacher(folder, recipe, data)
    found = semantics.measure(opened.denoiser, data.split(recipe.data.holdout)[1])
    if found is None:
        told, state = "there is one class, so there is nothing to measure", "none"
    elif problem := semantics.problem(found, opened.rows):
        told, state = problem, "wrong"
    elif doubt := semantics.doubt(found):
        told, state = doubt, "unclear"
    else:
        told, state = f"right: {found}", "right"
    measured = None if found is None else dataclasses.asdict(found)
    return View({"labels": {"state": state, "told": told, "measured": measured}}, (pairs(meaning=told),))


def _labels(rows: Any) -> str:
    return f"{rows} rows: {rows - 1} classes and the null class" if isinstance(rows, int) else f"{rows!r} rows"


def _json(path: Path) -> dict[str, Any]:
    with reading(path, "JSON file"):
        value = json.loads(path.read_bytes())
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected names and values in braces, got a {type(value).__name__}")
    return value


def _parameters(path: Path) -> int:
    """Numbers in a safetensors file, from its head."""
    with reading(path, "safetensors file"), path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > MOST_HEAD:
            raise ValueError(f"a head of {length} bytes")
        head = json.loads(file.read(length))
        return sum(math.prod(tensor["shape"]) for name, tensor in head.items() if name != "__metadata__")
