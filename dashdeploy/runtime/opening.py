"""Open whatever is at a path: a run, an artifact, a student, a teacher, or an .onnx file."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from dashdeploy import checked, manifest, signing, stages
from dashdeploy.artifact import Artifact
from dashdeploy.errors import UserError, shown, telling_the_user
from dashdeploy.lazy import resolve
from dashdeploy.recipe.load import section_in
from dashdeploy.recipe.schema import Data
from dashdeploy.runtime import RUNTIMES
from dashdeploy.runtime.model import Model, Open, Opening
from dashdeploy.terminal import warn

ARTIFACTS, STUDENT = "artifacts", "student"
CONFIGS = ("unet/config.json", "transformer/config.json", "config.json")
"""Of a model folder: one of them is there."""


def open_path(
    path: str | Path,
    *,
    threads: int | None = None,
    provider: str | None = None,
    device: str | None = None,
    public_key: str | None = None,
) -> Model:
    """Open a model as a Denoiser and a Sampler; `dashdeploy.runtime.open` says what the arguments mean.

    A run folder opens its first artifact, or its student if nothing was exported. Folders with a manifest are
    checked against it before anything in them is loaded. An artifact that is opened by its own path although its run
    has another student by now is told of on stderr.

    Raises:
        UserError: nothing there that can be opened, it is damaged, not signed, or of another student than its run
            folder's, or what it needs is not here.
    """
    given = {"provider": provider, "public_key": public_key}
    if wrong := [name for name, value in given.items() if value is not None and not (isinstance(value, str) and value)]:
        raise UserError(f"{wrong[0]} must be text, or be left out; got {given[wrong[0]]!r}")
    path, how = Path(path), Opening(threads, provider, None if device is None else str(device))
    public_key = checked.configured_key(public_key)
    if path.suffix == ".onnx":
        if provider is not None or device is not None:
            raise UserError(f"{path}: an .onnx file runs on the CPU; open its folder for a provider or device.")
        from dashdeploy.runtime.one_graph import open_file

        return open_file(path, threads=threads, loaded=_of_artifact(path, public_key))
    folder = find_model(path)
    stage, artifact = _read(folder, public_key)
    if stage is not None:
        how = replace(how, hashes=stage.manifest["files"])
        if folder == path:
            _warn_if_stale(stage)
    backend = artifact.backend if artifact is not None else "torch"
    if provider is not None and backend != "onnxruntime":
        raise UserError(f"{folder}: a provider is ONNX Runtime's, and this is a model for {backend}.")
    if stage is None or artifact is None:
        from dashdeploy.runtime import torch_model

        model = torch_model.open_model(folder, stage, how)
    else:
        opener: Open = resolve("runtime", RUNTIMES, backend)
        model = opener(folder, artifact, how, sha256=stage.sha256)
    if stage is not None and section_in(stage.manifest, Data, "data", source=folder / stages.MANIFEST).gives_latents:
        model.denoiser.interface = replace(model.denoiser.interface, latents=True)
    return model


def _read(folder: Path, public_key: str | None) -> tuple[stages.Stage | None, Artifact | None]:
    """The stage of a folder, checked, and the artifact that it is; None: there is no manifest, or no artifact."""
    stage = stages.read_stage(folder) if stages.is_stage(folder) else None
    if stage is not None and public_key is not None:
        signing.verify(stage, public_key)
    if stage is not None and "artifact" in stage.manifest:
        return stage, manifest.read(stage).artifact
    if stage is not None and not any((folder / name).is_file() for name in CONFIGS):
        raise UserError(
            f"{shown(folder)}: the finished stage {stage.manifest['stage']}, which is no model. Give a run folder, an "
            "artifact (that of a package lies within it), a student or a teacher."
        )
    if stage is not None and "package" in stage.manifest["inputs"]:
        raise UserError(
            f"{shown(folder)}: a package for diffusers, which its README.md says how to use. Give the run folder, an "
            "artifact or the student."
        )
    if public_key is not None:
        raise UserError(
            f"{folder}: not an artifact, and with a public key ({checked.PUBLIC_KEY}, or the argument) only signed "
            "artifacts are opened."
        )
    return stage, None


def _of_artifact(path: Path, public_key: str | None) -> checked.GraphBytes | None:
    """An .onnx file's bytes as the manifest beside it vouches for them; None: there is no manifest."""
    stage, artifact = _read(path.parent, public_key)
    if stage is None:
        return None
    _warn_if_stale(stage)
    graphs = artifact.graphs.values() if artifact is not None else ()
    for graph in graphs:
        if graph.file == path.name or graph.onnx == path.name:
            files = [name for name in graph.files if name != graph.file or graph.onnx is None]
            with telling_the_user():
                return checked.read_graph(path.parent, path.name, files, stage.manifest["files"])
    raise UserError(
        f"{path}: {path.parent / stages.MANIFEST} lists no such graph. Open the folder, or export it again."
    )


def find_model(path: Path) -> Path:
    """The folder that `path` means: itself, or in a run folder its first artifact, else its student.

    Raises:
        UserError: there is none, or the artifact is of another student than the run folder's.
    """
    if not os.path.isdir(path):  # Path.is_dir raises for a name that is too long
        what = "a file that is not opened by itself" if os.path.exists(path) else "no such file or folder"
        raise UserError(f"{shown(path)}: {what}. Expected a run folder, an artifact, a model folder or an .onnx file.")
    if any((path / name).is_file() for name in (stages.MANIFEST, *CONFIGS)):
        return path
    artifacts = artifact_folders(path)
    if artifacts:
        if why := stale(artifacts[0], stages.read_manifest(artifacts[0])):
            raise UserError(f"{why} Run `dashdeploy export {path} --to {artifacts[0].name}`, or open {path / STUDENT}.")
        return artifacts[0]
    if (path / STUDENT / stages.MANIFEST).is_file():
        return path / STUDENT
    raise UserError(f"{path}: holds no model yet. Run `dashdeploy distill` and `dashdeploy export` first.")


def artifact_folders(run_folder: Path) -> list[Path]:
    """The artifacts of a run, by name."""
    folder = run_folder / ARTIFACTS
    stages.mend(folder)
    found = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")] if folder.is_dir() else []
    return [path for path in found if stages.is_stage(path)]


def stale(folder: Path, manifest: dict[str, Any]) -> str | None:
    """Why an artifact in a run folder is not of the run's student; None: it is, or there is no student beside it."""
    student = folder.absolute().parent.parent / STUDENT
    made_from = manifest["inputs"].get("student")
    if folder.absolute().parent.name != ARTIFACTS or made_from is None or not student.is_dir():
        return None
    try:
        if stages.digest(stages.read_manifest(student)["files"]) == made_from:
            return None
    except UserError as error:
        return f"{folder}: it may have been exported from another student than {student}, which cannot be read: {error}"
    return f"{folder}: it was exported from another student than the one that is now in {student}."


def _warn_if_stale(stage: stages.Stage) -> None:
    if why := stale(stage.folder, stage.manifest):
        warn(why)
