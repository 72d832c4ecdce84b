"""Relative paths in a YAML file: they are relative to that file, and are made absolute when it is read."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dashdeploy import locate
from dashdeploy.recipe.problems import KeyPath

TEACHER = ("teacher", "path")
PATHS = (("data", "path"), ("data", "vae"), TEACHER, ("bench", "quality", "features_weights"))
"""The recipe's keys that hold the path of a file or folder of the user's."""
TARGETS = "export"
"""The key that lists names of targets, or paths of their files."""


def anchor(values: Any, folder: Path, *, wanted: Callable[[KeyPath], bool] = lambda path: True) -> None:
    """Make the relative paths in a recipe's raw values absolute, in place; they are relative to `folder`.

    A teacher that ships with dashdeploy keeps its path relative to the shipped recipes, wherever these are installed,
    and so does one that is not in `folder` but among them. Values of a wrong type are left for validation.

    Args:
        wanted: whether the value at a key path is to be changed.
    """
    for path in PATHS:
        *sections, key = path
        section = values
        for step in sections:
            section = section.get(step) if isinstance(section, dict) else None
        if isinstance(section, dict) and isinstance(text := section.get(key), str) and text and wanted(path):
            section[key] = _teacher(text, folder) if path == TEACHER else _absolute(text, folder)
    found = values.get(TARGETS) if isinstance(values, dict) else None
    targets: list[Any] = found if isinstance(found, list) else []
    for index, name in enumerate(targets):
        if isinstance(name, str) and wanted((TARGETS, index)):
            targets[index] = _target(name, folder)


def _absolute(text: str, folder: Path) -> str:
    if text.startswith("~") or "\0" in text:
        return text
    path = str(folder.absolute() / text)
    short = os.path.normpath(path)
    # Behind a link to a folder, `..` is not the folder that the text names.
    return short if os.path.realpath(short) == os.path.realpath(path) else path


def _teacher(text: str, folder: Path) -> str:
    shipped, path = locate.data_root("recipes"), Path(_absolute(text, folder))
    if not locate.exists(path) and locate.exists(shipped / text):
        return text
    return str(path.relative_to(shipped) if path.is_relative_to(shipped) else path)


def _target(name: str, folder: Path) -> str:
    """A target's name stays as it is, also where it is written with its suffix and no such file is in the folder."""
    path = _absolute(name, folder)
    is_name = name.removesuffix(".yaml") in locate.available("exporters")
    return path if locate.is_path(name) and (locate.exists(path) or not is_name) else name
