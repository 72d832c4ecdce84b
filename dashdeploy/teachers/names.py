"""The class names that a teacher's folder tells: of one that `teach` made, or of a pipeline's `id2label`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dashdeploy.errors import UserError, reading

INDEX = "model_index.json"
"""Of a pipeline in diffusers format."""


def class_names(folder: Path, manifest: dict[str, Any] | None, num_classes: int) -> tuple[str, ...]:
    """K names in the order of the labels; (): none are told.

    Raises:
        UserError: id2label does not name each label once.
    """
    if manifest is not None:
        return tuple(manifest["figures"].get("classes") or ())
    path = folder / INDEX
    if not path.is_file():
        return ()
    with reading(path, "index of a pipeline in JSON"):
        index = json.loads(path.read_text(encoding="utf-8"))
    held = index.get("id2label") if isinstance(index, dict) else None
    if not held:
        return ()
    wanted = [str(label) for label in range(num_classes)]
    if not isinstance(held, dict) or sorted(map(str, held)) != sorted(wanted):
        raise UserError(
            f"teacher {path}: id2label must name the labels 0 … {num_classes - 1}, each once. Correct it, or remove it."
        )
    names = {str(label): name for label, name in held.items()}
    return tuple(str(names[label]) for label in wanted)
