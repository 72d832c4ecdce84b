"""The onnxruntime backend: the ONNX graphs are the artifact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.progress import Progress

from dashdeploy import stages
from dashdeploy.export.int8.int8 import Int8
from dashdeploy.lazy import require
from dashdeploy.target import Target


class Backend:
    """What every backend offers: an identity for the stage's key, a check that it can work here, and the build."""

    def __init__(self, target: Target, cache: Path) -> None:
        self.target = target

    def identity(self) -> dict[str, Any]:
        """What, beside student and target, the artifact depends on."""
        return {}

    def ready(self) -> None:
        """Refuse at once what would fail after minutes.

        Raises:
            UserError: onnxruntime is not installed.
        """
        require("onnxruntime", extra="cpu")

    def build(self, draft: stages.Draft, *, int8: Int8 | None, progress: Progress) -> None:
        """Turn draft.artifact["graphs"], ONNX files in draft.folder, into what is deployed.

        Args:
            int8: how a backend with a quantizer of its own quantizes; None: another precision.
        """
        draft.artifact["providers"] = list(self.target.providers)
