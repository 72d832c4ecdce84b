"""dashdeploy: compress a class-conditional diffusion model and deploy it with its guidance intact."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from dashdeploy.runtime.opened import Opened

__version__ = "0.1.0"

# No telemetry. ONNX Runtime reads the variable when it is imported, here or in a process that is started from here; 0
# turns it on. OpenVINO and NNCF send nothing where openvino_telemetry cannot be imported; import it first to keep it.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
_modules: dict[str, Any] = sys.modules
_modules.setdefault("openvino_telemetry", None)


def open(
    path: str | Path,
    *,
    threads: int | None = None,
    provider: str | None = None,
    device: str | None = None,
    public_key: str | None = None,
) -> Opened:
    """Open a run, an artifact, a student, a teacher or an .onnx file to draw images from; a context manager.

    ``with dashdeploy.open("runs/digits") as model: images = model.sample(range(10), guidance=3, seed=0)``

    Args:
        threads: CPU threads of the runtime; None: all that this process may use.
        provider: an ONNX Runtime provider in place of the artifact's, as in ``CUDAExecutionProvider``.
        device: as torch names it, ``cpu``, ``cuda`` or ``cuda:1``; None: what the artifact was made for.
        public_key: a minisign public key, or its file: only an artifact that it has signed is opened. None: that of
            the environment variable DASHDEPLOY_PUBLIC_KEY; without one, signatures are not asked for.

    Raises:
        UserError (`dashdeploy.errors`): nothing there that can be opened, it is damaged or not signed, or what it
            needs is not here. Another provider or device is never taken silently.
    """
    from dashdeploy.runtime.opened import Opened
    from dashdeploy.runtime.opening import open_path

    return Opened(open_path(path, threads=threads, provider=provider, device=device, public_key=public_key))
