"""Backends turn ONNX graphs into the form that a runtime loads; the contract of all of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from dashdeploy.artifact import Graph, GraphName
    from dashdeploy.export.int8.decide import Int8
    from dashdeploy.progress import Progress
    from dashdeploy.target import Target


class Backend(Protocol):
    """One target's backend."""

    def __init__(self, target: Target, cache: Path) -> None:
        """cache: a folder of the run for builds that are slow; made if it is needed."""

    def identity(self) -> dict[str, Any]:
        """What the artifact depends on beside student and target, as the version of a converter; never raises."""

    def ready(self) -> None:
        """Refuse at once a build that would fail after minutes.

        Raises:
            UserError: a library or device that the build needs is missing; one line with the install command.
        """

    def build(
        self, folder: Path, graphs: dict[GraphName, Graph], *, int8: Int8 | None, progress: Progress
    ) -> dict[GraphName, Graph]:
        """Turn the graphs' ONNX files in `folder` into deployed files; returns the new entries, in the same order.

        Args:
            int8: for a quantizer that works on the backend's format (NNCF); None: another precision.

        Raises:
            UserError: a graph that cannot be converted or built, or one of another precision than the target's.
        """


BACKENDS: dict[str, str] = {
    "onnxruntime": "dashdeploy.export.backends.onnxruntime:OnnxRuntime",
    "openvino": "dashdeploy.export.backends.openvino:OpenVino",
    "tensorrt": "dashdeploy.export.backends.tensorrt:TensorRT",
    "tensorrt_rtx": "dashdeploy.export.backends.tensorrt:TensorRT",
}
"""Name in a target -> its `Backend`."""
