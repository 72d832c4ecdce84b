"""dashdeploy: compress a class-conditional diffusion model and deploy it with its guidance intact."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from dashdeploy.runtime.opened import Opened

__version__ = "0.1.0"


def open(
    path: str | Path, *, threads: int | None = None, provider: str | None = None, device: str | None = None
) -> Opened:
    """Open a run, an artifact, a student, a teacher or an .onnx file to draw images from; a context manager.

    ``with dashdeploy.open("runs/digits") as model: images = model.sample(range(10), guidance=3, seed=0)``

    Args:
        threads: CPU threads of the runtime; None: all that this process may use.
        provider: an ONNX Runtime provider in place of the artifact's, as in ``CUDAExecutionProvider``.
        device: as torch names it, ``cpu``, ``cuda`` or ``cuda:1``; None: what the artifact was made for.

    Raises:
        UserError (`dashdeploy.errors`): nothing there that can be opened, it is damaged, or what it needs is not here.
            Another provider or device is never taken silently.
    """
    from dashdeploy.runtime.opened import Opened
    from dashdeploy.runtime.opening import open_path

    return Opened(open_path(path, threads=threads, provider=provider, device=device))
