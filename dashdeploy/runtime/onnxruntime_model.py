"""ONNX artifacts as models, through ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import torch

from dashdeploy.artifact import Artifact, Graph
from dashdeploy.diffusion.denoiser import Interface
from dashdeploy.errors import UserError
from dashdeploy.runtime.graphs_model import GraphDenoiser, open_graphs, read
from dashdeploy.runtime.model import Model, Opening
from dashdeploy.runtime.onnx_session import CPU, GUIDED, OnnxSession
from dashdeploy.runtime.sessions import Graphs, Session

CUDA_PROVIDERS = ("CUDAExecutionProvider", "TensorrtExecutionProvider", "NvTensorRTRTXExecutionProvider")


class HostSession:
    """A graph on a CPU provider, over torch tensors without copies."""

    def __init__(self, session: OnnxSession, inputs: tuple[str, ...]) -> None:
        self.session, self.inputs = session, inputs

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
        feeds = {name: tensor.numpy() for name, tensor in zip(self.inputs, inputs, strict=True)}
        return torch.from_numpy(self.session.run(feeds))

    def close(self) -> None:
        """Release the session."""
        self.session.close()


class DeviceSession:
    """A graph on a CUDA provider: inputs are read, and the output is written, where torch's tensors lie.

    The output's batch is that of the first input. ONNX Runtime's stream is waited for on torch's side.
    """

    def __init__(self, session: OnnxSession, graph: Graph, device: torch.device) -> None:
        self.session, self.device = session, device
        self.inputs = [tensor.name for tensor in graph.inputs]
        (self.output,) = graph.outputs

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
        binding = self.session.session.io_binding()
        index = self.device.index or 0
        held = [tensor.to(self.device).contiguous() for tensor in inputs]
        dtype = getattr(torch, self.output.dtype)
        out = torch.empty((len(inputs[0]), *self.output.sides), dtype=dtype, device=self.device)
        torch.cuda.current_stream(self.device).synchronize()
        for name, tensor in zip(self.inputs, held, strict=True):
            kind = str(tensor.dtype).removeprefix("torch.")
            binding.bind_input(name, "cuda", index, kind, tuple(tensor.shape), tensor.data_ptr())
        name, kind = self.output.name, self.output.dtype
        binding.bind_output(name, "cuda", index, kind, tuple(out.shape), out.data_ptr())
        self.session.session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        return out

    def close(self) -> None:
        """Release the session."""
        self.session.close()


def open_model(folder: Path, artifact: Artifact, how: Opening, *, sha256: str) -> Model:
    """Open an exported folder; see `runtime.model.Open`.

    Raises:
        UserError: a provider or device that is not here, or that do not go together.
    """
    providers = (how.provider,) if how.provider else artifact.providers
    device = torch.device(how.device or ("cuda" if providers[0] in CUDA_PROVIDERS else "cpu"))
    if device.type == "cuda" and device.index is None and torch.cuda.is_available():
        device = torch.device("cuda", torch.cuda.current_device())  # a launch of several processes gives each its own
    if (device.type == "cuda") != (providers[0] in CUDA_PROVIDERS):
        raise UserError(f"{folder}: {providers[0]} does not run on {device}. Give a provider and a device that fit.")

    def session(graph: Graph, threads: int | None) -> Session:
        path, inputs = folder / graph.file, tuple(tensor.name for tensor in graph.inputs)
        opened = OnnxSession(
            path,
            inputs=inputs,
            threads=threads,
            providers=providers,
            device_id=device.index or 0,
            loaded=read(folder, graph, how),
        )
        return HostSession(opened, inputs) if device.type == "cpu" else DeviceSession(opened, graph, device)

    title = "ONNX Runtime" if providers == CPU else f"ONNX Runtime {providers[0].removesuffix('ExecutionProvider')}"
    return open_graphs(
        folder,
        artifact,
        lambda graph: session(graph, how.threads),
        title=title,
        sha256=sha256,
        device=str(device),
        open_narrow=(lambda graph: session(graph, 1)) if providers == CPU else None,
        threads=how.threads,
    )


def open_guided(path: Path, interface: Interface, *, threads: int | None = None) -> GraphDenoiser:
    """A guided graph's file, without a manifest, as a Denoiser on the CPU; close it."""
    session = OnnxSession(path, threads=threads)
    return GraphDenoiser(Graphs(("guided",), lambda name: HostSession(session, GUIDED)), interface)
