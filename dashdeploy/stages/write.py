"""Writing a stage: into a draft under the stage's lock, which takes the stage's place once it is whole."""

from __future__ import annotations

import json
import platform
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from dashdeploy import __version__
from dashdeploy.errors import UserError, writing
from dashdeploy.recipe import keys
from dashdeploy.recipe.schema import Recipe
from dashdeploy.stages.hashes import digest, file_sha256, files_below
from dashdeploy.stages.lock import DRAFT, LOCK, take_place
from dashdeploy.stages.read import FORMAT, MANIFEST, SIDECAR, sidecar_text

VERSIONED = (
    *("torch", "diffusers", "accelerate", "onnx", "onnxruntime", "onnxruntime-gpu", "numpy", "safetensors"),
    *("openvino", "nncf", "tensorrt", "tensorrt-rtx-cu13", "polygraphy"),
)


@dataclass
class Draft:
    """A stage that is being written.

    Attributes:
        folder: its files go here.
        figures: what was measured, for the manifest.
        artifact: what a runtime needs to know, for the manifest of an artifact.
    """

    folder: Path
    figures: dict[str, Any] = field(default_factory=dict)
    artifact: dict[str, Any] = field(default_factory=dict)


def stage_key(stage: keys.Stage, recipe: Recipe, inputs: dict[str, Any]) -> str:
    """The key of a stage: changes when anything that it depends on does.

    Args:
        recipe: all of it counts, but for the fields that recipe/keys.py leaves out, each with a reason.
        inputs: what else the stage is made from, as plain JSON values: hashes, mostly.
    """
    return digest({"format": FORMAT, "stage": stage, "recipe": keys.depends_on(recipe, stage), "inputs": inputs})


def versions() -> dict[str, str]:
    """Versions of the packages that a result may depend on: those that are installed."""
    installed = {"dashdeploy": __version__, "python": platform.python_version()}
    for name in VERSIONED:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return installed


def open_run(root: str | Path, name: str) -> Path:
    """The folder of a run, made and checked to be writable.

    Raises:
        UserError: it cannot be made or written to.
    """
    folder = Path(root) / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"run folder {folder}: cannot be written to ({error}). Choose another with --run-dir."
        ) from error
    return folder


@contextmanager
def write_stage(folder: Path, work: Path, *, key: str, recipe: Recipe, inputs: dict[str, Any]) -> Iterator[Draft]:
    """Write a stage into a draft, then swap it in; after an error nothing has changed.

    Args:
        work: what `exclusive` gave: the stage's lock is held until this ends.

    Raises:
        UserError: the machine refuses something, as on a full disk; the message names a path.
    """
    with replacing_folder(folder, work) as path:
        draft = Draft(path)
        yield draft
        _follow_the_umask(path, work)  # before there is a manifest, with which the draft counts as whole
        files = {str(name): file_sha256(path / name) for name in files_below(path)}
        manifest = {
            "format": FORMAT,
            "stage": folder.name,
            "key": key,
            "inputs": inputs,
            "files": files,
            "figures": draft.figures,
            **({"artifact": draft.artifact} if draft.artifact else {}),
            "seed": recipe.seed,
            "versions": versions(),
            "recipe": recipe.model_dump(mode="json"),
        }
        (path / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
        (path / SIDECAR).write_bytes(sidecar_text(path / MANIFEST))


@contextmanager
def replacing_folder(folder: Path, work: Path) -> Iterator[Path]:
    """An empty folder that takes the place of `folder` at the end; after an error nothing has changed.

    Args:
        work: what `exclusive` gave.

    Raises:
        UserError: the machine refuses something, as on a full disk; the message names a path.
    """
    draft = work / DRAFT
    try:
        with writing(folder):
            draft.mkdir()
            yield draft
            _follow_the_umask(draft, work)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    take_place(folder, work)


def _follow_the_umask(folder: Path, work: Path) -> None:
    """Give all below `folder` the modes of a new folder and of the lock, whatever wrote them; programs stay such."""
    of_folder, of_file = folder.stat().st_mode & 0o777, (work / LOCK).stat().st_mode & 0o666
    for path in folder.rglob("*"):
        now = path.stat().st_mode & 0o777
        wanted = of_folder if path.is_dir() else of_file | (of_folder & 0o111 if now & 0o100 else 0)
        if now != wanted:
            path.chmod(wanted)
