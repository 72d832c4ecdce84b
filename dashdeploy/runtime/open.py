"""Open whatever is at a path: a run, an artifact, a student, a teacher, or an .onnx file."""

from __future__ import annotations

from pathlib import Path

from dashdeploy import run
from dashdeploy.errors import UserError
from dashdeploy.lazy import resolve
from dashdeploy.runtime import RUNTIMES
from dashdeploy.runtime.model import Model

ARTIFACTS = "artifacts"


def open_path(path: str | Path, *, threads: int | None = None) -> Model:
    """Open a model as a Denoiser.

    A run folder opens its first artifact, or its student if nothing was exported. Folders with a manifest are
    checked against it first.

    Args:
        threads: CPU threads of the runtime; None: the runtime's own choice.

    Raises:
        UserError: nothing there that can be opened, or it is damaged.
    """
    path = Path(path)
    if path.suffix == ".onnx":
        if (path.parent / run.MANIFEST).is_file():
            run.read_stage(path.parent)
        from dashdeploy.runtime.onnxruntime_model import open_file

        return open_file(path, threads=threads)
    folder = find_model(path)
    manifest = run.read_stage(folder).manifest if (folder / run.MANIFEST).is_file() else {}
    backend = manifest.get("artifact", {}).get("backend", "torch")
    model: Model = resolve("runtime", RUNTIMES, backend)(folder, manifest, threads=threads)
    return model


def find_model(path: Path) -> Path:
    """The folder that `path` means: itself, or in a run folder its first artifact, else its student.

    Raises:
        UserError: there is none.
    """
    if not path.is_dir():
        raise UserError(
            f"{path}: no such file or folder. Expected a run folder, an artifact, a model folder or an .onnx file."
        )
    holds_model = (path / run.MANIFEST, path / "unet" / "config.json", path / "config.json")
    if any(p.is_file() for p in holds_model):
        return path
    artifacts = artifact_folders(path)
    if artifacts:
        return artifacts[0]
    if (path / "student" / run.MANIFEST).is_file():
        return path / "student"
    raise UserError(f"{path}: holds no model yet. Run `dashdeploy distill` and `dashdeploy export` first.")


def artifact_folders(run_folder: Path) -> list[Path]:
    """The artifacts of a run, by name."""
    return sorted(p.parent for p in (run_folder / ARTIFACTS).glob(f"*/{run.MANIFEST}"))
