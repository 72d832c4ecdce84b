"""Reading a finished stage: its manifest and every file are checked against their hashes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from dashdeploy.errors import UserError
from dashdeploy.stages.hashes import digest, file_sha256

FORMAT = 5
OF_OLD = (4,)
"""Formats whose manifests differ in what they say of an artifact only: other stages of them are read too."""
MANIFEST = "manifest.json"
SIDECAR = MANIFEST + ".sha256"


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


class _Figures(BaseModel):
    """Those figures of a student or teacher that other stages read."""

    model_config = ConfigDict(strict=True)

    classes: list[str] | None = None
    parameters: int | None = None
    compression: float | None = None
    teacher: str | None = None


class _Manifest(BaseModel):
    """What every stage's manifest has; an artifact's is read whole in dashdeploy/manifest.py."""

    model_config = ConfigDict(strict=True)

    stage: str
    key: str
    inputs: dict[str, Any]
    figures: _Figures
    seed: int
    versions: dict[str, str]
    recipe: dict[str, Any]


def is_stage(folder: Path) -> bool:
    """Whether there is a manifest or its hash, be it a link to nothing: then `read_stage` has to accept the folder.

    Raises:
        OSError: the folder may not be looked into.
    """
    return any(_is_there(folder / name) for name in (MANIFEST, SIDECAR))


def _is_there(path: Path) -> bool:
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


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

    A file may be a link to wherever its store keeps it, as content is what a hash vouches for. A name that leads out of
    the folder is refused.

    Raises:
        UserError: no manifest, another format version, or a missing or changed file.
    """
    manifest = read_manifest(folder)
    path = folder / MANIFEST
    for name, expected in manifest["files"].items():
        file = folder / name
        if PurePath(name).is_absolute() or ".." in PurePath(name).parts:
            raise UserError(f"{path}: lists {name!r}, which is outside of its folder. Make the stage again.")
        if not file.is_file():
            raise UserError(f"{file}: missing, and {path} lists it. Make the stage again.")
        if file_sha256(file) != expected:
            raise UserError(f"{file}: damaged or changed since it was made (its SHA-256 differs from {MANIFEST}'s).")
    return Stage(folder, manifest)


def refuse_if_replaced(*read: Stage) -> None:
    """Refuse to write a result of these stages if another process has replaced one of them since it was read.

    Raises:
        UserError: it names the stage.
    """
    for stage in read:
        if read_manifest(stage.folder) != stage.manifest:
            raise UserError(f"{stage.folder}: another process made it again meanwhile. Run the same command again.")


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
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path}: not a manifest ({error!r}). Make the stage again.") from error
    if not known or version not in ((FORMAT,) if "artifact" in manifest else (FORMAT, *OF_OLD)):
        raise UserError(f"{path}: format {version}; this version reads {FORMAT}. Make the stage again.")
    if not sidecar.is_file():
        raise UserError(f"{sidecar}: missing; it holds the manifest's SHA-256. Make the stage again.")
    if sidecar.read_bytes() != sidecar_text(path):
        raise UserError(f"{path}: damaged or changed since it was made (its SHA-256 differs from {SIDECAR}'s).")
    try:
        _Manifest.model_validate(manifest)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(f"{path}: not a manifest ({where}: {first['msg']}). Make the stage again.") from error
    return manifest


def sidecar_text(file: Path) -> bytes:
    """What a file's .sha256 holds: a line that `sha256sum -c` checks."""
    return f"{file_sha256(file)}  {file.name}\n".encode()
