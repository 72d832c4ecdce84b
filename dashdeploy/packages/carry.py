"""Copying an artifact into a package: the files that its manifest lists, the manifest, and its signature."""

from __future__ import annotations

from pathlib import Path

from dashdeploy import checked, stages
from dashdeploy.errors import telling_the_user
from dashdeploy.manifest import Manifest


def carry(folder: Path, manifest: Manifest, destination: Path) -> None:
    """Copy an artifact, links followed, into the new folder `destination`; each file is checked as it is read.

    Raises:
        UserError: a file is missing or was changed.
    """
    destination.mkdir()
    beside = [name for name in (stages.MANIFEST, stages.SIDECAR, checked.SIGNATURE) if (folder / name).is_file()]
    with telling_the_user():
        for name in manifest.files:
            (destination / name).write_bytes(checked.read(folder, name, manifest.files))
        for name in beside:
            (destination / name).write_bytes(checked.read(folder, name, None))
