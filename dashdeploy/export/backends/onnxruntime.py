"""The onnxruntime backend: the ONNX graphs are the artifact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dashdeploy.artifact import Graph, GraphName
from dashdeploy.errors import unknown
from dashdeploy.export.backends import Backend
from dashdeploy.export.int8.decide import Int8
from dashdeploy.lazy import require
from dashdeploy.progress import Progress
from dashdeploy.runtime.onnxruntime_model import CUDA_PROVIDERS
from dashdeploy.target import Target


class OnnxRuntime(Backend):
    """Nothing is converted."""

    def __init__(self, target: Target, cache: Path) -> None:
        self.target = target

    def identity(self) -> dict[str, Any]:
        return {}

    def ready(self) -> None:
        ort: Any = require("onnxruntime", extra="cpu")
        known = {*ort.get_all_providers(), *CUDA_PROVIDERS}  # those of CUDA are not in every build's list
        for provider in self.target.providers:
            if provider not in known:
                raise unknown(f"provider in target {self.target.name}:", provider, known)

    def build(
        self, folder: Path, graphs: dict[GraphName, Graph], *, int8: Int8 | None, progress: Progress
    ) -> dict[GraphName, Graph]:
        return graphs
