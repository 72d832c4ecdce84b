"""TensorRT artifacts, of either flavour, as models on an NVIDIA GPU."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch

from dashdeploy.errors import UserError
from dashdeploy.runtime import tensorrt_check, tensorrt_library
from dashdeploy.runtime.graphs_model import Chunked, Session, open_graphs
from dashdeploy.runtime.model import Model, Opening
from dashdeploy.runtime.tensorrt_session import TensorRTSession

TITLES = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}


def open_model(folder: Path, manifest: dict[str, Any], how: Opening) -> Model:
    """Open an exported folder; its manifest has been checked against its files.

    Raises:
        UserError: no GPU, or a TensorRT version or GPU that its engines were not built for; it says what to do.
    """
    artifact = manifest["artifact"]
    flavour = artifact["backend"]
    device = how.device or "cuda"
    if not device.startswith("cuda"):
        raise UserError(f"{folder}: {TITLES[flavour]} engines run on a CUDA device, not on {device}.")
    if not torch.cuda.is_available():
        raise UserError(
            f"{folder}: {TITLES[flavour]} engines need an NVIDIA GPU, and torch sees none. Its ONNX files run in ONNX "
            "Runtime; for a CPU artifact: `dashdeploy export RUN --to onnx-cpu`."
        )
    here = tensorrt_library.facts(flavour, device)

    def open_graph(entry: dict[str, Any], name: str) -> Session:
        for caution in tensorrt_check.check(entry["engine"], here, source=folder / entry["file"]):
            warnings.warn(caution, RuntimeWarning, stacklevel=2)
        session = TensorRTSession(
            folder / entry["file"],
            flavour=flavour,
            inputs=entry["inputs"],
            outputs=entry["outputs"],
            profiles=entry["engine"]["profiles"],
            device=device,
            version_compatible=entry["engine"]["flags"].get("version_compatible", False),
        )
        return Chunked(session, max(profile["max"] for profile in entry["engine"]["profiles"]))

    return open_graphs(folder, manifest, open_graph, title=TITLES[flavour], device=device)
