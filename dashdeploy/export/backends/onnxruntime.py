"""The onnxruntime backend: the ONNX graphs are the artifact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dashdeploy.artifact import Graph, GraphName
from dashdeploy.export.backends import Backend
from dashdeploy.export.int8.decide import Int8
from dashdeploy.lazy import require
from dashdeploy.progress import Progress
from dashdeploy.target import Target


class OnnxRuntime(Backend):
    """Nothing is converted."""

    def __init__(self, target: Target, cache: Path) -> None:
        pass

    def identity(self) -> dict[str, Any]:
        return {}

    def ready(self) -> None:
        require("onnxruntime", extra="cpu")

    def build(
        self, folder: Path, graphs: dict[GraphName, Graph], *, int8: Int8 | None, progress: Progress
    ) -> dict[GraphName, Graph]:
        return graphs
