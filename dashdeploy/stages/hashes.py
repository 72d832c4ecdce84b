"""SHA-256 of values, files and folders: what keys and manifests are made of."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from dashdeploy.errors import UserError


def digest(value: Any) -> str:
    """SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_sha256(folder: Path, *, keep: Callable[[Path], bool] = lambda path: True) -> str:
    """SHA-256 over the names and bytes of a folder's files. Links are followed: their content counts, not where it is.

    Args:
        keep: whether a file counts, by its path within the folder. Python's caches never do.

    Raises:
        UserError: no file counts, one is a dangling link or no regular file, or links of folders form a loop.
    """
    hashes = {str(name): file_sha256(folder / name) for name in files_below(folder, keep=keep)}
    if not hashes:
        raise UserError(f"{folder}: it has no files that could identify it, so a change of it would go unseen.")
    return digest(hashes)


def files_below(folder: Path, *, keep: Callable[[Path], bool] = lambda path: True) -> list[Path]:
    """The files that `folder_sha256` counts, as sorted paths within the folder. It raises as that does."""
    return sorted(_below(folder, Path(), (), keep))


def _below(
    folder: Path, inner: Path, above: tuple[tuple[int, int], ...], keep: Callable[[Path], bool]
) -> Iterator[Path]:
    """above: device and inode of the folders on the way here."""
    here = (folder / inner).stat()
    identity = here.st_dev, here.st_ino
    if identity in above:
        raise UserError(f"{folder / inner}: a link to a folder that holds it, so it has no end. Remove the link.")
    with os.scandir(folder / inner) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        path = inner / entry.name
        if entry.name == "__pycache__":
            continue
        if entry.is_dir():
            yield from _below(folder, path, (*above, identity), keep)
        elif keep(path):
            if not entry.is_file():
                what = "a link to nothing" if entry.is_symlink() else "neither a file nor a folder"
                raise UserError(f"{folder / path}: {what}. Put the file there, or remove it.")
            yield path
