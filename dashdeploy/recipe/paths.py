"""Relative paths in a YAML file: they are relative to that file, and are made absolute when it is read."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dashdeploy import locate
from dashdeploy.recipe.problems import KeyPath

TEACHER, START = ("teacher", "path"), ("student", "init", "path")
PATHS = (
    ("data", "path"),
    ("data", "vae"),
    TEACHER,
    START,
    ("bench", "quality", "features_weights"),
    ("bench", "quality", "reference"),
)
"""The recipe's keys that hold the path of a file or folder of the user's."""
VAE = "vae"
"""The folder of a pipeline in diffusers format that holds its autoencoder."""
TARGETS = "export"
"""The key that lists names of targets, or paths of their files."""


def anchor(values: Any, folder: Path, *, wanted: Callable[[KeyPath], bool] = lambda path: True) -> None:
    """Make the relative paths in a recipe's raw values absolute, in place; they are relative to `folder`.

    A teacher that ships with dashdeploy keeps its path relative to the shipped recipes, wherever these are installed,
    and so does one that is not in `folder` but among them. The run that a shipped recipe begins with is a user's: its
    path is relative to the folder that the user is in. Values of a wrong type are left for validation.

    Args:
        wanted: whether the value at a key path is to be changed.
    """
    for path in PATHS:
        *sections, key = path
        section = values
        for step in sections:
            section = section.get(step) if isinstance(section, dict) else None
        if isinstance(section, dict) and isinstance(text := section.get(key), str) and text and wanted(path):
            ships = path == START and folder.absolute() == locate.data_root("recipes").absolute()
            section[key] = _teacher(text, folder) if path == TEACHER else absolute(text, Path() if ships else folder)
    found = values.get(TARGETS) if isinstance(values, dict) else None
    targets: list[Any] = found if isinstance(found, list) else []
    for index, name in enumerate(targets):
        if isinstance(name, str) and wanted((TARGETS, index)):
            targets[index] = _target(name, folder)


def take_teachers_vae(values: Any) -> None:
    """Make the autoencoder of a teacher's pipeline data.vae in a recipe's raw values, in place, where none is named.

    Without it the images would go into a network of latents as they are.
    """
    teacher = values.get("teacher") if isinstance(values, dict) else None
    path = teacher.get("path") if isinstance(teacher, dict) else None
    if not isinstance(path, str) or not path or "\0" in path:
        return
    vae = locate.data_root("recipes") / os.path.expanduser(path) / VAE
    data = values.setdefault("data", {})
    if isinstance(data, dict) and "vae" not in data and locate.exists(vae / "config.json"):
        data["vae"] = str(vae)


def absolute(text: str, folder: Path) -> str:
    """A path of a file in `folder`; one that begins at ~ stays."""
    if text.startswith("~") or "\0" in text:
        return text
    path = str(folder.absolute() / text)
    short = os.path.normpath(path)
    # Behind a link to a folder, `..` is not the folder that the text names.
    return short if os.path.realpath(short) == os.path.realpath(path) else path


def _teacher(text: str, folder: Path) -> str:
    shipped, path = locate.data_root("recipes"), Path(absolute(text, folder))
    if not locate.exists(path) and locate.exists(shipped / text):
        return text
    return str(path.relative_to(shipped) if path.is_relative_to(shipped) else path)


def _target(name: str, folder: Path) -> str:
    """A target's name stays as it is, also where it is written with its suffix and no such file is in the folder."""
    path = absolute(name, folder)
    is_name = name.removesuffix(".yaml") in locate.available("exporters")
    return path if locate.is_path(name) and (locate.exists(path) or not is_name) else name
