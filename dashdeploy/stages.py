"""The run folder: stages that are written whole or not at all, described by a manifest, and not run twice.

runs/<recipe>/<stage>/manifest.json holds the format version, the key (a hash of all that the stage depends on), the
SHA-256 of each file, the resolved recipe, versions, seed and figures. manifest.json.sha256 holds the manifest's hash in
sha256sum's format. Work that has not ended (checkpoints) is kept in runs/<recipe>/.<stage>-work/.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
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
from dashdeploy.errors import UserError
from dashdeploy.recipe import keys
from dashdeploy.recipe.schema import Recipe
from dashdeploy.terminal import say

FORMAT = 3
MANIFEST = "manifest.json"
SIDECAR = MANIFEST + ".sha256"
VERSIONED = (
    *("torch", "diffusers", "accelerate", "onnx", "onnxruntime", "onnxruntime-gpu", "numpy", "safetensors"),
    *("openvino", "nncf", "tensorrt", "tensorrt-rtx-cu13", "polygraphy"),
)


@dataclass(frozen=True)
class Stage:
    """A finished stage: its folder, and its manifest as it was read."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def figures(self) -> dict[str, Any]:
        return self.manifest["figures"]

    @property
    def sha256(self) -> str:
        """Hash over the hashes of all its files."""
        return digest(self.manifest["files"])


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


def digest(value: Any) -> str:
    """SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_sha256(folder: Path) -> str:
    """SHA-256 over the names and bytes of a folder's files."""
    names = sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return digest({str(path.relative_to(folder)): file_sha256(path) for path in names})


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


def current(folder: Path, key: str) -> Stage | None:
    """The stage in `folder` if it has this key and its files are whole, else None."""
    if not (folder / MANIFEST).is_file():
        return None
    try:
        stage = read_stage(folder)
    except UserError:
        return None
    return stage if stage.manifest["key"] == key else None


def read_stage(folder: Path) -> Stage:
    """Open a finished stage and check its manifest and every file against their hashes.

    Raises:
        UserError: no manifest, another format version, or a missing or changed file.
    """
    manifest = read_manifest(folder)
    path = folder / MANIFEST
    for name, expected in manifest["files"].items():
        file = folder / name
        if not file.resolve().is_relative_to(folder.resolve()):
            raise UserError(f"{path}: lists {name!r}, which is outside of its folder. Make the stage again.")
        if not file.is_file():
            raise UserError(f"{file}: missing, and {path} lists it. Make the stage again.")
        if file_sha256(file) != expected:
            raise UserError(f"{file}: damaged or changed since it was made (its SHA-256 differs from {MANIFEST}'s).")
    return Stage(folder, manifest)


def read_manifest(folder: Path) -> dict[str, Any]:
    """A stage's manifest, checked against its hash; the files that it lists are not checked.

    Raises:
        UserError: it is missing, damaged, or of another format version.
    """
    path, sidecar = folder / MANIFEST, folder / SIDECAR
    if not path.is_file():
        raise UserError(f"{folder}: not a finished stage (no {MANIFEST}). Run the command that makes it first.")
    try:
        manifest = json.loads(path.read_bytes())
        version, files = manifest["format"], manifest["files"]
        known = isinstance(files, dict) and all(isinstance(v, str) for v in files.values())
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a manifest ({error!r}). Make the stage again.") from error
    if version != FORMAT or not known:
        raise UserError(f"{path}: format {version}; this version reads {FORMAT}. Make the stage again.")
    if not sidecar.is_file():
        raise UserError(f"{sidecar}: missing; it holds the manifest's SHA-256. Make the stage again.")
    if sidecar.read_bytes() != sidecar_text(path):
        raise UserError(f"{path}: damaged or changed since it was made (its SHA-256 differs from {SIDECAR}'s).")
    return manifest


def sidecar_text(manifest: Path) -> bytes:
    """What manifest.json.sha256 holds: a line that `sha256sum -c` checks."""
    return f"{file_sha256(manifest)}  {MANIFEST}\n".encode()


@contextmanager
def write_stage(folder: Path, *, key: str, recipe: Recipe, inputs: dict[str, Any]) -> Iterator[Draft]:
    """Write a stage into a folder beside `folder`, then swap it in; after an error nothing has changed."""
    draft = Draft(Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent)))
    try:
        yield draft
        files = {
            str(path.relative_to(draft.folder)): file_sha256(path)
            for path in sorted(draft.folder.rglob("*"))
            if path.is_file()
        }
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
        (draft.folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
        (draft.folder / SIDECAR).write_bytes(sidecar_text(draft.folder / MANIFEST))
        draft.folder.chmod(0o755)
        _swap(draft.folder, folder)
    except BaseException:
        shutil.rmtree(draft.folder, ignore_errors=True)
        raise


def _swap(new: Path, folder: Path) -> None:
    old = folder.with_name(f".{folder.name}-old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def work_path(folder: Path) -> Path:
    """The folder where a stage keeps its checkpoints until it is done."""
    return folder.with_name(f".{folder.name}-work")


def work_folder(folder: Path, *, fresh: bool = False) -> Path:
    """The folder of `work_path`, made if it is not there. fresh: without what an interrupted run had left in it."""
    work = work_path(folder)
    if fresh:
        shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True, exist_ok=True)
    return work


@contextmanager
def exclusive(work: Path) -> Iterator[None]:
    """Keep other processes out of a stage's work folder.

    Raises:
        UserError: another process holds it.
    """
    with (work / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(
                f"{work}: another dashdeploy is at work there. Wait for it, or choose another --run-dir."
            ) from error
        file.write(str(os.getpid()))
        file.flush()
        yield


@contextmanager
def in_turn(lock: Path, *, what: str) -> Iterator[None]:
    """Wait until no other process holds this lock file, and hold it; the end of its holder frees it.

    Args:
        what: what is made under the lock, for the line on stderr that says another process is making it.
    """
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for {what}, which another process is making")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
