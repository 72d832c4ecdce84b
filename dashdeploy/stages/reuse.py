"""Which finished stage may be taken as it is, and which may not be replaced without a word."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from dashdeploy.errors import UserError
from dashdeploy.recipe import keys
from dashdeploy.recipe.schema import Recipe
from dashdeploy.stages.lock import clear, exclusive, work_path
from dashdeploy.stages.read import Stage, current, read_stage

SOURCES = ("data", "noise_schedule", "teacher", "teach", "student")
"""Sections of a recipe that a stage's inputs are made from."""


def finished(folder: Path, key: str) -> Stage | None:
    """The stage in `folder` if it has this key and is whole, else None; what a kill left half-way is ended first."""
    if work_path(folder).parent.exists():
        with suppress(UserError, OSError), exclusive(folder) as work:  # at work there, or not ours to write
            if current(folder, key):
                clear(work)
    return current(folder, key)


def refuse_to_replace(folder: Path, stage: keys.Stage, recipe: Recipe, inputs: dict[str, Any]) -> None:
    """Refuse to put another result into the place of what is in `folder`; an empty or missing folder is free.

    Raises:
        UserError: it names the values that differ from those of the finished stage, or says why that cannot be read.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    replaces = "`dashdeploy teach --fresh` replaces it" if stage == "teacher" else "Pass --fresh to replace it"
    way_out = f"{replaces}, or give the recipe another name."
    try:
        manifest = read_stage(folder).manifest
    except UserError as error:
        raise UserError(f"{folder}: is there already, and cannot be used: {error} {way_out}") from error
    what = "; ".join(differences(manifest, stage, recipe, inputs)) or "another version of dashdeploy made it"
    raise UserError(f"{folder}: finished with other values: {what}. {way_out}")


def differences(manifest: dict[str, Any], stage: keys.Stage, recipe: Recipe, inputs: dict[str, Any]) -> list[str]:
    """``distill.steps 100 → 200`` for each value in which a finished stage differs from what would be made now."""
    ours, whole = manifest["recipe"], recipe.model_dump(mode="json")
    told = [
        *(
            _changes({k: ours.get(k) for k in SOURCES}, {k: whole[k] for k in SOURCES})
            if manifest["inputs"] != inputs
            else ()
        ),
        *(text.replace("input.", "content of ", 1) for text in _changes(manifest["inputs"], inputs, "input")),
        *_changes(keys.without(ours, keys.left_out(recipe, stage)), keys.depends_on(recipe, stage)),
    ]
    return list(dict.fromkeys(told))


def _changes(before: Any, now: Any, name: str = "") -> Iterator[str]:
    """``distill.steps 100 → 200`` for each value that differs, sections within sections."""
    if before == now:
        return
    if isinstance(before, dict) and isinstance(now, dict):
        for key in dict.fromkeys((*before, *now)):
            yield from _changes(before.get(key), now.get(key), f"{name}.{key}" if name else key)
    else:
        yield f"{name} {_shown(before)} → {_shown(now)}"


def _shown(value: Any) -> str:
    """A value as a message shows it: a hash by its beginning."""
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return text[:8] + "…" if len(text) == 64 and set(text) <= set("0123456789abcdef") else text
