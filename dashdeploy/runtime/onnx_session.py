"""An ONNX Runtime session over the guided graph, in numpy alone: what an application embeds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dashdeploy.errors import UserError
from dashdeploy.lazy import require

DTYPES = {"x": np.float32, "t": np.int64, "y": np.int64, "w": np.float32}


class GuidedSession:
    """x (B, C, H, W) float32, t, y (B,) int64, w (B,) float32 -> eps (B, C, H, W) float32.

    Raises:
        UserError: onnxruntime or a provider is not installed, or the file is not a whole guided graph.
    """

    def __init__(
        self, path: Path, *, threads: int | None = None, providers: Sequence[str] = ("CPUExecutionProvider",)
    ) -> None:
        ort = require("onnxruntime", extra="cpu")
        available = ort.get_available_providers()
        missing = [p for p in providers if p not in available]
        if missing:
            raise UserError(f"{path}: ONNX Runtime here has no {', '.join(missing)}; it has {', '.join(available)}.")
        options = ort.SessionOptions()
        if threads is not None:
            options.intra_op_num_threads = threads
        options.log_severity_level = 3
        try:
            self._session: Any = ort.InferenceSession(str(path), options, providers=list(providers))
        except Exception as error:
            raise UserError(
                f"{path}: not a whole ONNX model ({' '.join(str(error).split())[:200]}). Export it again."
            ) from error
        names = {i.name for i in self._session.get_inputs()}
        if names != set(DTYPES):
            self.close()
            raise UserError(f"{path}: its inputs are {sorted(names)}; a guided graph has {sorted(DTYPES)}")
        used = self._session.get_providers()
        if used[0] != providers[0]:
            self.close()
            raise UserError(f"{path}: asked for {providers[0]} and got {used[0]}")
        self.metadata: dict[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)

    def run(
        self, x: NDArray[np.float32], t: NDArray[np.int64], y: NDArray[np.int64], w: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Guided eps."""
        feeds = {"x": x, "t": t, "y": y, "w": w}
        out: NDArray[np.float32] = self._session.run(None, feeds)[0]
        return out

    def close(self) -> None:
        """Release the session."""
        self._session = None
