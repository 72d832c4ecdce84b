"""OpenVINO artifacts as models, on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from dashdeploy.diffusion.denoiser import Interface
from dashdeploy.errors import UserError
from dashdeploy.lazy import require
from dashdeploy.runtime.graphs_model import GraphDenoiser, Graphs, Session, open_graphs
from dashdeploy.runtime.model import Model, Opening
from dashdeploy.runtime.onnx_session import GUIDED


class OpenVinoSession:
    """One compiled graph, over torch tensors of the host.

    Args:
        path: an .xml or .onnx file, or a model in memory.
        precision_hint: what OpenVINO computes float32 graphs in; f32 unless the artifact says otherwise. On CPUs with
            bf16 instructions OpenVINO would else take bf16 silently.

    Raises:
        UserError: openvino is not installed, or the file is not a whole graph.
    """

    def __init__(self, path: Path | Any, *, inputs: tuple[str, ...], threads: int | None, precision_hint: str) -> None:
        openvino: Any = require("openvino", extra="openvino")
        settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": precision_hint}
        if threads is not None:
            settings["INFERENCE_NUM_THREADS"] = threads
        try:
            source = str(path) if isinstance(path, Path) else path
            model = openvino.Core().compile_model(source, "CPU", settings)
        except Exception as error:
            raise UserError(
                f"{path}: not a whole OpenVINO model ({' '.join(str(error).split())[:200]}). Export it again."
            ) from error
        names = {name for tensor in model.inputs for name in tensor.get_names()}
        if not set(inputs) <= names:
            raise UserError(f"{path}: its inputs are {sorted(names)}; expected {sorted(inputs)}")
        self.inputs, self.request = inputs, model.create_infer_request()

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
        feeds = {name: tensor.numpy() for name, tensor in zip(self.inputs, inputs, strict=True)}
        out = self.request.infer(feeds, share_inputs=True)[0]
        return torch.from_numpy(out.copy())

    def close(self) -> None:
        """Release the request and its memory."""
        self.request = None


def of_guided(model: Any, interface: Interface) -> GraphDenoiser:
    """A guided graph in memory as a Denoiser, in float32 where it is not quantized."""

    def open_graph(name: str) -> Session:
        return OpenVinoSession(model, inputs=GUIDED, threads=None, precision_hint="f32")

    return GraphDenoiser(Graphs(("guided",), open_graph), interface)


def open_model(folder: Path, manifest: dict[str, Any], how: Opening) -> Model:
    """Open an exported folder; its manifest has been checked against its files.

    Raises:
        UserError: another device than the CPU was asked for.
    """
    if how.device not in (None, "cpu"):
        raise UserError(f"{folder}: OpenVINO artifacts run on the CPU here, not on {how.device}.")
    hint = {"bf16": "bf16", "fp16": "f16"}.get(manifest["artifact"]["precision"], "f32")

    def open_graph(entry: dict[str, Any], name: str) -> Session:
        names = tuple(tensor["name"] for tensor in entry["inputs"])
        return OpenVinoSession(folder / entry["file"], inputs=names, threads=how.threads, precision_hint=hint)

    return open_graphs(folder, manifest, open_graph, title="OpenVINO")
