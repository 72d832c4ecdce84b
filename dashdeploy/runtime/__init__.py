"""Runtimes: open any artifact, student or teacher as a Denoiser and a Sampler."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dashdeploy.runtime.model import Model

RUNTIMES: dict[str, str] = {
    "onnxruntime": "dashdeploy.runtime.onnxruntime_model:open_model",
    "openvino": "dashdeploy.runtime.openvino_model:open_model",
    "tensorrt": "dashdeploy.runtime.tensorrt_model:open_model",
    "tensorrt_rtx": "dashdeploy.runtime.tensorrt_model:open_model",
}
"""Backend of an artifact -> its ``Open``; see `runtime.model`."""


def open(
    path: str | Path,
    *,
    threads: int | None = None,
    provider: str | None = None,
    device: str | None = None,
    public_key: str | None = None,
) -> Model:
    """Open an artifact, a run, a student, a teacher or an .onnx file by what its manifest says; a context manager.

    ``with dashdeploy.runtime.open("runs/digits/artifacts/onnx-cpu") as model: model.sample(noise, y, plan)``

    Args:
        threads: CPU threads of the runtime; None: all that this process may use.
        provider: an ONNX Runtime provider in place of the artifact's, as in ``CUDAExecutionProvider``.
        device: as torch names it, ``cpu``, ``cuda`` or ``cuda:1``; None: what the artifact was made for.
        public_key: a minisign public key, or its file: only an artifact that it has signed is opened. None: that of
            the environment variable DASHDEPLOY_PUBLIC_KEY; without one, signatures are not asked for.

    Raises:
        UserError: nothing there that can be opened, it is damaged or not signed, or what it needs is not here. Another
            provider or device is never taken silently.
    """
    from dashdeploy.runtime.opening import open_path

    return open_path(path, threads=threads, provider=provider, device=device, public_key=public_key)
