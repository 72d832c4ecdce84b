"""ONNX Runtime sessions over an exported graph, with numpy arrays: an application may embed this file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from dashdeploy import checked
from dashdeploy.checked import GraphBytes
from dashdeploy.errors import UserError
from dashdeploy.lazy import require

CPU = ("CPUExecutionProvider",)
GUIDED = ("x", "t", "y", "w")


class OnnxSession:
    """One graph: arrays by input name in, its one output out.

    Args:
        path: the graph's file. Its weights may lie in files beside it, and nowhere else.
        inputs: the names that its inputs must have; None: any.
        loaded: its bytes where they were checked as they were read; None: read here.

    Raises:
        UserError: onnxruntime or a provider is not installed, or the file is not a whole graph with these inputs.
    """

    def __init__(
        self,
        path: Path,
        *,
        inputs: Sequence[str] | None = GUIDED,
        threads: int | None = None,
        providers: Sequence[str] = CPU,
        device_id: int = 0,
        loaded: GraphBytes | None = None,
    ) -> None:
        ort = require("onnxruntime", extra="cpu")
        available = ort.get_available_providers()
        if missing := [p for p in providers if p not in available]:
            extra = " Install it with: pip install 'dashdeploy[gpu]'" if "CUDAExecutionProvider" in missing else ""
            raise UserError(
                f"{path}: ONNX Runtime here has no {', '.join(missing)}; it has {', '.join(available)}.{extra}"
            )
        options = ort.SessionOptions()
        if threads is not None:
            options.intra_op_num_threads = threads
        options.log_severity_level = 3
        model, weights = loaded or read_file(path)
        if weights:  # from memory: ONNX Runtime itself would open them unchecked, and refuses links
            sizes = [len(data) for data in weights.values()]
            options.add_external_initializers_from_files_in_memory(list(weights), list(weights.values()), sizes)
        on_device = [(p, {"device_id": device_id}) if p.startswith(("CUDA", "Tensorrt")) else p for p in providers]
        try:
            self.session: Any = ort.InferenceSession(model, options, providers=on_device)
        except Exception as error:
            raise UserError(
                f"{path}: not a whole ONNX model ({' '.join(str(error).split())[:200]}). Export it again."
            ) from error
        self.inputs = frozenset(i.name for i in self.session.get_inputs())
        if inputs is not None and self.inputs != set(inputs):
            self.close()
            raise UserError(f"{path}: its inputs are {sorted(self.inputs)}; expected {sorted(inputs)}")
        used = self.session.get_providers()
        if used[0] != providers[0]:
            self.close()
            raise UserError(f"{path}: asked for {providers[0]} and got {used[0]}. See `dashdeploy doctor`.")
        self.metadata: dict[str, str] = dict(self.session.get_modelmeta().custom_metadata_map)

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """The graph's output."""
        out: NDArray[Any] = self.session.run(None, feeds)[0]
        return out

    def close(self) -> None:
        """Release the session."""
        self.session = None


def read_file(path: Path) -> GraphBytes:
    """An ONNX file with the weights beside it, without a manifest that vouches for them.

    Raises:
        UserError: it cannot be read, is not whole, or names a file outside of its folder.
    """
    try:
        if not path.is_file():
            raise ValueError(f"{path}: no such file")
        model = path.read_bytes()
        beside = checked.external_files(model, source=path)
        return GraphBytes(model, {name: checked.read(path.parent, name, None) for name in sorted(beside)})
    except (OSError, ValueError) as error:
        raise UserError(str(error)) from error
