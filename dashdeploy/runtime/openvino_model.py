"""OpenVINO artifacts as models, on the CPU."""

from __future__ import annotations

from pathlib import Path
from queue import SimpleQueue
from typing import Any

import torch

from dashdeploy.artifact import Artifact, Graph, Precision
from dashdeploy.checked import GraphBytes
from dashdeploy.diffusion.denoiser import Interface
from dashdeploy.errors import UserError
from dashdeploy.lazy import require
from dashdeploy.runtime.graphs_model import GraphDenoiser, host_threads, open_graphs, read
from dashdeploy.runtime.model import Model, Opening
from dashdeploy.runtime.onnx_session import GUIDED
from dashdeploy.runtime.sessions import Graphs, Session


def settings(precision: Precision, *, threads: int | None, streams: int | None = None) -> dict[str, Any]:
    """What a graph is compiled with: float32 graphs compute in f32 unless the artifact says otherwise.

    On CPUs with bf16 instructions OpenVINO would else take bf16 silently.
    """
    chosen: dict[str, Any] = {"INFERENCE_PRECISION_HINT": {"bf16": "bf16", "fp16": "f16"}.get(precision, "f32")}
    if streams is not None:
        return {**chosen, "NUM_STREAMS": streams, "INFERENCE_NUM_THREADS": streams}
    return {**chosen, "PERFORMANCE_HINT": "LATENCY", **({} if threads is None else {"INFERENCE_NUM_THREADS": threads})}


class OpenVinoSession:
    """One compiled graph, over torch tensors of the host.

    Args:
        source: the graph's bytes, or a model in memory or its file.
        what: the file, for messages.
        precision: the artifact's; see `settings`.
        streams: so many calls at once, from as many threads, each on one thread; None: all threads work on one call.

    Raises:
        UserError: openvino is not installed, or the file is not a whole graph.
    """

    def __init__(
        self,
        source: GraphBytes | Any,
        *,
        what: object = "the graph",
        inputs: tuple[str, ...],
        threads: int | None,
        precision: Precision,
        streams: int | None = None,
    ) -> None:
        openvino: Any = require("openvino", extra="openvino")
        chosen = settings(precision, threads=threads, streams=streams)
        try:
            core = openvino.Core()
            if isinstance(source, GraphBytes):
                source = core.read_model(source.model, b"".join(source.weights.values()))
            model = core.compile_model(source, "CPU", chosen)
        except Exception as error:
            raise UserError(
                f"{what}: not a whole OpenVINO model ({' '.join(str(error).split())[:200]}). Export it again."
            ) from error
        names = {name for tensor in model.inputs for name in tensor.get_names()}
        if not set(inputs) <= names:
            raise UserError(f"{what}: its inputs are {sorted(names)}; expected {sorted(inputs)}")
        self.inputs, self.free = inputs, SimpleQueue[Any]()
        for _ in range(streams or 1):
            self.free.put(model.create_infer_request())

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
        feeds = {name: tensor.numpy() for name, tensor in zip(self.inputs, inputs, strict=True)}
        request = self.free.get()
        try:
            return torch.from_numpy(request.infer(feeds, share_inputs=True)[0].copy())
        finally:
            self.free.put(request)

    def close(self) -> None:
        """Release the requests and their memory."""
        while not self.free.empty():
            self.free.get()


def of_guided(model: Any, interface: Interface) -> GraphDenoiser:
    """A guided graph in memory as a Denoiser, in float32 where it is not quantized."""

    def open_graph(name: str) -> Session:
        return OpenVinoSession(model, inputs=GUIDED, threads=None, precision="fp32")

    return GraphDenoiser(Graphs(("guided",), open_graph), interface)


def open_model(folder: Path, artifact: Artifact, how: Opening, *, sha256: str) -> Model:
    """Open an exported folder; see `runtime.model.Open`.

    Raises:
        UserError: another device than the CPU was asked for.
    """
    if how.device not in (None, "cpu"):
        raise UserError(f"{folder}: OpenVINO artifacts run on the CPU here, not on {how.device}.")

    def session(graph: Graph, streams: int | None) -> Session:
        names = tuple(tensor.name for tensor in graph.inputs)
        return OpenVinoSession(
            read(folder, graph, how),
            what=folder / graph.file,
            inputs=names,
            threads=how.threads,
            precision=artifact.precision,
            streams=streams,
        )

    return open_graphs(
        folder,
        artifact,
        lambda graph: session(graph, None),
        title="OpenVINO",
        sha256=sha256,
        open_narrow=lambda graph: session(graph, host_threads(how.threads)),
        threads=how.threads,
    )
