"""One TensorRT engine as a function of CUDA tensors: a profile, a context and a CUDA graph for each batch size."""

from __future__ import annotations

import threading
import warnings
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dashdeploy.artifact import BatchRange, TensorSpec
from dashdeploy.errors import UserError
from dashdeploy.runtime import tensorrt_library
from dashdeploy.runtime.tensorrt_library import TITLES, Flavour

WARMUP_RUNS = 2
"""Before a capture: TensorRT allocates, and RTX compiles kernels for the shape, in the first runs."""
MOST_SHAPES = 8
"""Batch sizes whose buffers, context and CUDA graph are kept; the one that was not used for longest goes first."""


@dataclass
class Prepared:
    """The static buffers of one batch size, and its CUDA graph; graph None: enqueued anew each time.

    A captured context is not used for anything else: TensorRT leaves replays undefined once it has changed.
    """

    context: Any
    profile: int
    inputs: list[torch.Tensor]
    output: torch.Tensor
    graph: Any = None


def choose_profile(profiles: Sequence[BatchRange], batch: int, *, source: Path | str = "engine") -> int:
    """The profile that accepts this batch and whose opt is nearest by ratio; the narrower one of two equals.

    Raises:
        UserError: none accepts it; it names their limits.
    """
    fits = [i for i, p in enumerate(profiles) if p.min <= batch <= p.max]
    if not fits:
        limits = ", ".join(f"{p.min} to {p.max}" for p in profiles)
        raise UserError(
            f"{source}: batch {batch} is outside of the engine's profiles ({limits}). Split the batch, or export "
            "again with a profile in engine.profiles that holds it."
        )

    def distance(i: int) -> tuple[float, int]:
        profile = profiles[i]
        return max(profile.opt / batch, batch / profile.opt), profile.max - profile.min

    return min(fits, key=distance)


def check_inputs(
    inputs: Sequence[torch.Tensor], described: Sequence[TensorSpec], *, source: Path | str = "engine"
) -> int:
    """Check the number, types and shapes of inputs against the manifest; returns the batch.

    Raises:
        UserError: it names the input, what it is and what was expected.
    """
    if len(inputs) != len(described):
        names = ", ".join(tensor.name for tensor in described)
        raise UserError(f"{source}: got {len(inputs)} inputs, expected {len(described)}: {names}.")
    batch = inputs[0].shape[0] if inputs[0].dim() else 0
    for tensor, spec in zip(inputs, described, strict=True):
        if str(tensor.dtype) != f"torch.{spec.dtype}":
            raise UserError(f"{source}: input {spec.name} is {tensor.dtype}, expected torch.{spec.dtype}.")
        expected = (batch, *spec.sides)
        if tuple(tensor.shape) != expected:
            raise UserError(
                f"{source}: input {spec.name} has shape {tuple(tensor.shape)}, expected {expected}: "
                "the batch of the first input, and the engine's other dimensions."
            )
    return batch


def enqueue(context: Any, stream: int, *, what: str, errors: Any = None) -> None:
    """Run a context on a CUDA stream (its handle). TensorRT returns false and leaves the output as it was on failure.

    Args:
        what: the engine, profile and shapes, for the message.
        errors: a collecting logger.

    Raises:
        UserError: it did not run.
    """
    if not context.execute_async_v3(stream):
        raise UserError(f"{what}: TensorRT did not run it{said(errors)}. Its output would have been meaningless.")


def said(errors: Any) -> str:
    """' (…)' with the last error that a collecting logger holds, or ''."""
    texts = [text for kind, text in getattr(errors, "messages", []) if kind != "WARNING"]
    return f" ({' '.join(texts[-1].split())[:300]})" if texts else ""


class TensorRTSession:
    """CUDA tensors in the order of the graph's inputs in, its output out, on the caller's current stream.

    The host waits only at the first run of a batch size, which warms up and captures a CUDA graph. Calls from several
    threads or streams take turns. Tensors of the host are copied through pinned memory.

    Args:
        plan: the engine's file. It is native code: check it against its manifest's SHA-256 first.
        inputs, outputs: the manifest's tensors.
        profiles: as built.
        device: as torch names it: ``cuda`` or ``cuda:1``.
        version_compatible: the engine was built so; it carries a runtime inside, which is allowed to load.
        serialized: the file's bytes where they were checked as they were read; None: read here.

    Attributes:
        cuda_graph: whether shapes are replayed from CUDA graphs; false once one could not be captured, as with loops
            whose control flow runs on the host.

    Raises:
        UserError: no library, no GPU, or an engine that does not load here or is not what the manifest says.
    """

    def __init__(
        self,
        plan: Path,
        *,
        flavour: Flavour,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        profiles: Sequence[BatchRange],
        device: str = "cuda",
        version_compatible: bool = False,
        serialized: bytes | None = None,
    ) -> None:
        if not tensorrt_library.has_driver() or not torch.cuda.is_available():
            raise UserError(f"{plan}: {TITLES[flavour]} engines run on an NVIDIA GPU, and there is none here.")
        self.plan, self.inputs, self.output, self.profiles = plan, inputs, outputs[0], profiles
        index = torch.device(device).index
        self.device = torch.device("cuda", torch.cuda.current_device() if index is None else index)
        self.cuda_graph = True
        self._trt: Any = tensorrt_library.load(flavour)
        self._logger = tensorrt_library.collecting_logger(self._trt)
        self._contexts: dict[int, Any] = {}
        self._prepared: OrderedDict[int, Prepared] = OrderedDict()
        self._lock = threading.Lock()
        with torch.cuda.device(self.device):
            torch.zeros(1, device=self.device)  # makes torch's CUDA context before TensorRT looks for one
            self._runtime: Any = self._trt.Runtime(self._logger)
            if version_compatible:
                self._runtime.engine_host_code_allowed = True
            self._engine: Any = self._runtime.deserialize_cuda_engine(serialized or plan.read_bytes())
            if self._engine is None:
                raise UserError(f"{plan}: does not load here{said(self._logger)}. Export it again on this machine.")
            self._stream = torch.cuda.Stream()
            self._last = torch.cuda.Event()
        self._check_engine([*inputs, *outputs])

    def _check_engine(self, tensors: Sequence[TensorSpec]) -> None:
        held = {self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)}
        expected = {tensor.name for tensor in tensors}
        if held != expected or self._engine.num_optimization_profiles != len(self.profiles):
            raise UserError(
                f"{self.plan}: holds tensors {', '.join(sorted(held))} and {self._engine.num_optimization_profiles} "
                f"profiles; its manifest says {', '.join(sorted(expected))} and {len(self.profiles)}. Export it again."
            )

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Run the engine.

        Raises:
            UserError: shapes that the engine does not take, or TensorRT did not run.
        """
        batch = check_inputs(inputs, self.inputs, source=self.plan)
        if self._engine is None:
            raise UserError(f"{self.plan}: this session has been closed.")
        with self._lock, torch.cuda.device(self.device):
            current = torch.cuda.current_stream()
            current.wait_event(self._last)
            run = self._shape(batch)
            for buffer, tensor in zip(run.inputs, inputs, strict=True):
                source = tensor if tensor.is_cuda else tensor.pin_memory()
                buffer.copy_(source, non_blocking=True)
            if run.graph is not None:
                run.graph.replay()
            else:  # not on the caller's stream: on the default one TensorRT would wait on the host
                self._stream.wait_stream(current)
                enqueue(run.context, self._stream.cuda_stream, what=self._what(run), errors=self._logger)
                current.wait_stream(self._stream)
            out = run.output.clone()
            self._last.record(current)
            return out

    def _shape(self, batch: int) -> Prepared:
        """The buffers and graph of a batch size, made at its first use."""
        if batch in self._prepared:
            self._prepared.move_to_end(batch)
            run = self._prepared[batch]
            if run.graph is None:
                self._bind(run)  # its context may have served another batch size since
            return run
        profile = choose_profile(self.profiles, batch, source=self.plan)
        if len(self._prepared) >= MOST_SHAPES:
            self._last.synchronize()
            self._prepared.popitem(last=False)
        with torch.cuda.stream(self._stream):
            buffers = [self._buffer(spec, batch) for spec in [*self.inputs, self.output]]
        context = self._new_context(profile) if self.cuda_graph else self._shared_context(profile)
        run = Prepared(context, profile, buffers[:-1], buffers[-1])
        self._bind(run)
        if self.cuda_graph:
            self._capture(run)
        torch.cuda.current_stream().wait_stream(self._stream)
        self._prepared[batch] = run
        return run

    def _buffer(self, spec: TensorSpec, batch: int) -> torch.Tensor:
        return torch.zeros((batch, *spec.sides), dtype=getattr(torch, spec.dtype), device=self.device)

    def _new_context(self, profile: int) -> Any:
        context = self._engine.create_execution_context(*self._runtime_config())
        if context is None or not context.set_optimization_profile_async(profile, self._stream.cuda_stream):
            raise UserError(
                f"{self.plan}: no context for profile {profile}{said(self._logger)}. The GPU's memory may be full."
            )
        self._stream.synchronize()
        return context

    def _shared_context(self, profile: int) -> Any:
        """One for all batch sizes of a profile that run without CUDA graphs."""
        if profile not in self._contexts:
            self._contexts[profile] = self._new_context(profile)
        return self._contexts[profile]

    def _runtime_config(self) -> list[Any]:
        """RTX: compile kernels for a shape before it runs, not beside it, so that a CUDA graph holds the final ones."""
        strategies = getattr(self._trt, "DynamicShapesKernelSpecializationStrategy", None)
        if strategies is None:
            return []
        config = self._engine.create_runtime_config()
        config.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
        return [config]

    def _bind(self, run: Prepared) -> None:
        specs = [*self.inputs, self.output]
        for spec, buffer in zip(specs, [*run.inputs, run.output], strict=True):
            taken = run.context.set_tensor_address(spec.name, buffer.data_ptr())
            if taken and spec is not self.output:
                taken = run.context.set_input_shape(spec.name, tuple(buffer.shape))
            if not taken:
                raise UserError(f"{self._what(run)}: TensorRT refuses tensor {spec.name}{said(self._logger)}.")

    def _capture(self, run: Prepared) -> None:
        """Warm up and capture; where that cannot be done, say so and go on without."""
        what, stream = self._what(run), self._stream
        with torch.cuda.stream(stream):
            for _ in range(WARMUP_RUNS):
                enqueue(run.context, stream.cuda_stream, what=what, errors=self._logger)
        stream.synchronize()
        can = getattr(run.context, "is_stream_capturable", None)
        try:
            if can is not None and not can(stream.cuda_stream):
                raise RuntimeError("TensorRT says that it is not capturable")
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                enqueue(run.context, stream.cuda_stream, what=what, errors=self._logger)
            run.graph = graph
        except (RuntimeError, UserError) as error:
            self.cuda_graph = False
            reason = " ".join(str(error).split())[:200]
            warnings.warn(f"{what}: runs without a CUDA graph ({reason})", RuntimeWarning, stacklevel=4)
            torch.cuda.synchronize(self.device)
            run.context = self._shared_context(run.profile)
            self._bind(run)

    def _what(self, run: Prepared) -> str:
        limits = self.profiles[run.profile]
        shapes = ", ".join(
            f"{spec.name} {tuple(buffer.shape)}" for spec, buffer in zip(self.inputs, run.inputs, strict=True)
        )
        return f"{self.plan} at {shapes} (profile {run.profile}: batch {limits.min} to {limits.max})"

    def close(self) -> None:
        """Wait for what runs and release the engine and its buffers."""
        with self._lock:
            if self._engine is None:
                return
            torch.cuda.synchronize(self.device)
            self._prepared.clear()
            self._contexts.clear()
            self._engine = self._runtime = None

    def __enter__(self) -> TensorRTSession:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
