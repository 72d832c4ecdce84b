"""TensorRT artifacts, of either flavour, as models on an NVIDIA GPU."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import cast

import torch

from dashdeploy.artifact import Artifact, Flavour, Graph
from dashdeploy.errors import UserError
from dashdeploy.runtime import tensorrt_check, tensorrt_library
from dashdeploy.runtime.graphs_model import open_graphs, read
from dashdeploy.runtime.model import Model, Opening
from dashdeploy.runtime.sessions import Chunked, Session
from dashdeploy.runtime.tensorrt_library import TITLES
from dashdeploy.runtime.tensorrt_session import TensorRTSession


def open_model(folder: Path, artifact: Artifact, how: Opening, *, sha256: str) -> Model:
    """Open an exported folder; see `runtime.model.Open`.

    Raises:
        UserError: no GPU, or a TensorRT version or GPU that its engines were not built for; it says what to do.
    """
    flavour = cast(Flavour, artifact.backend)
    device = how.device or "cuda"
    if not device.startswith("cuda"):
        raise UserError(f"{folder}: {TITLES[flavour]} engines run on a CUDA device, not on {device}.")
    if not torch.cuda.is_available():
        raise UserError(
            f"{folder}: {TITLES[flavour]} engines need an NVIDIA GPU, and torch sees none. Its ONNX files run in ONNX "
            "Runtime; for a CPU artifact: `dashdeploy export RUN --to onnx-cpu`."
        )
    here = tensorrt_library.facts(flavour, device)

    def open_graph(graph: Graph) -> Session:
        assert graph.engine is not None  # the artifact's type sees to it
        for caution in tensorrt_check.check(graph.engine, here, source=folder / graph.file):
            warnings.warn(caution, RuntimeWarning, stacklevel=2)
        session = TensorRTSession(
            folder / graph.file,
            flavour=flavour,
            inputs=graph.inputs,
            outputs=graph.outputs,
            profiles=graph.engine.profiles,
            device=device,
            version_compatible=graph.engine.flags.version_compatible,
            serialized=read(folder, graph, how).model,
        )
        return Chunked(session, graph.engine.largest_batch)

    return open_graphs(folder, artifact, open_graph, title=TITLES[flavour], sha256=sha256, device=device)
