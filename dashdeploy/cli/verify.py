"""`dashdeploy verify`: whether a folder is whole, and signed by a key."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dashdeploy.cli.output import Result, lines


def verify(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="An artifact, a package, or any finished stage.")],
    *,
    key: Annotated[
        str | None,
        typer.Option(
            "--key",
            metavar="PUB",
            envvar="DASHDEPLOY_PUBLIC_KEY",
            help="Public key of minisign: its file, or the text RW….",
        ),
    ] = None,
) -> Result:
    """Check every file against manifest.json, and manifest.json against its signature.

    Exit code 2, and the reason in one line, if a file was changed, the signature is missing, or another key made it.
    """
    from dashdeploy import manifest, signing, stages
    from dashdeploy.errors import UserError, shown

    if not folder.is_dir():
        raise UserError(f"{shown(folder)}: no such folder. Give an artifact, a package or another finished stage.")
    if not stages.is_stage(folder) and (folder / "student").is_dir():
        raise UserError(
            f"{shown(folder)}: a run folder, and each stage in it has its own manifest. Give one of them, as in "
            f"{shown(folder / 'artifacts' / 'onnx-cpu')}."
        )
    if not key:
        raise UserError(
            "verify needs a public key: --key FILE, or the environment variable DASHDEPLOY_PUBLIC_KEY. "
            f"Without one, `dashdeploy show {shown(folder)}` checks every file against {stages.MANIFEST}."
        )
    stage = stages.read_stage(folder)
    comment = signing.verify(stage, key)
    if "artifact" in stage.manifest:
        manifest.read(stage)
    files = len(stage.manifest["files"])
    return lines(
        {"folder": folder, "files": files, "trusted_comment": comment},
        f"{folder}: {files} files are whole, and {stages.MANIFEST} is signed ({comment})",
    )
