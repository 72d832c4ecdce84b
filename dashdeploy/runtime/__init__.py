"""Runtimes: open any artifact, student or teacher as a Denoiser."""

from __future__ import annotations

RUNTIMES: dict[str, str] = {
    "torch": "dashdeploy.runtime.torch_model:open_model",
    "onnxruntime": "dashdeploy.runtime.onnxruntime_model:open_model",
}
"""Backend name -> ``(folder, manifest, *, threads) -> Model``."""
