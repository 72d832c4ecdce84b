"""The process that builds one engine: a job on stdin, JSON lines on a pipe, the plan into a file.

A separate process, because a builder that crashes must not take the export with it, because its peak memory can
be measured, and because the two TensorRT flavours cannot share one. It ends when its stdin is closed.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from dashdeploy.export.engine import inspect as engine_inspect
from dashdeploy.peak_memory import peak_mib
from dashdeploy.runtime import tensorrt_library

REPORT_S = 0.1
"""Least time between two reports of progress in one phase."""
BROKEN_PROFILE = "not self-consistent"
"""The builder only warns of a profile whose shapes cannot be run, and writes an engine that fails later."""
NO_DRIVER = "CUDA driver version is insufficient"


class Failed(Exception):
    """The build failed: at which stage, and the parser's or builder's errors."""

    def __init__(self, stage: str, errors: list[dict[str, str]]) -> None:
        super().__init__(stage)
        self.stage, self.errors = stage, errors


class Channel:
    """Events to the parent, one JSON object a line, from any thread."""

    def __init__(self, descriptor: int) -> None:
        self._file, self._lock = os.fdopen(descriptor, "w"), threading.Lock()

    def send(self, event: str, **fields: Any) -> None:
        """Write one event; ends the process when the parent no longer listens: it has cancelled, or is gone."""
        with self._lock:
            try:
                self._file.write(json.dumps({"event": event, **fields}) + "\n")
                self._file.flush()
            except BrokenPipeError:
                os._exit(0)


class Phases:
    """Overall progress out of TensorRT's nested phases: a phase's share is its parent's current step."""

    def __init__(self) -> None:
        self._open: dict[str, tuple[str | None, int]] = {}
        self._done: dict[str, float] = {}
        self.fraction = 0.0

    def start(self, name: str, parent: str | None, num_steps: int) -> None:
        """A phase of num_steps begins."""
        self._open[name], self._done[name] = (parent, max(1, num_steps)), 0.0

    def step(self, name: str, index: int) -> float:
        """Step `index` of a phase is done; returns the whole's fraction, which never falls."""
        if name in self._open:
            self._done[name] = index + 1.0
            self.fraction = max(self.fraction, min(1.0, self._up(name)))
        return self.fraction

    def _up(self, name: str) -> float:
        parent, steps = self._open[name]
        share = min(1.0, self._done[name] / steps)
        while parent in self._open:
            assert parent is not None
            above, steps = self._open[parent]
            share, parent = min(1.0, (self._done[parent] + share) / steps), above
        return share

    def finish(self, name: str) -> None:
        """A phase ends."""
        self._open.pop(name, None)
        self._done.pop(name, None)


def monitor(trt: Any, channel: Channel, cancelled: threading.Event) -> Any:
    """A TensorRT progress monitor that reports to the parent, and stops the build once `cancelled` is set."""

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            super().__init__()
            self.phases, self.lock, self.last = Phases(), threading.Lock(), 0.0

        def phase_start(self, name: str, parent: str | None, num_steps: int) -> None:
            with self.lock:
                self.phases.start(name, parent, num_steps)
                channel.send("progress", phase=name, fraction=self.phases.fraction)

        def step_complete(self, name: str, step: int) -> bool:
            with self.lock:
                fraction, now = self.phases.step(name, step), time.monotonic()
                if now - self.last >= REPORT_S:
                    self.last = now
                    channel.send("progress", phase=name, fraction=fraction)
            return not cancelled.is_set()

        def phase_finish(self, name: str) -> None:
            with self.lock:
                self.phases.finish(name)

    return Monitor()


def cancel_when_parent_leaves(cancelled: threading.Event) -> None:
    """Wait in the background for the end of stdin, by os.read: a reader object's lock could not be taken at exit."""

    def wait() -> None:
        while os.read(0, 1):
            pass
        cancelled.set()

    threading.Thread(target=wait, daemon=True).start()


def parse(trt: Any, path: str, logger: Any) -> tuple[Any, Any, Any]:
    """(builder, network, parser) of an ONNX file.

    Polygraphy's NetworkFromOnnxPath would raise without the parser, and only the parser knows the failing node.
    """
    from polygraphy.backend.trt import create_network

    builder, network = create_network(strongly_typed=True)
    trt.init_libnvinfer_plugins(logger, "")
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(path) or parser.num_errors:
        raise Failed("parse", [_parser_error(parser.get_error(i)) for i in range(parser.num_errors)])
    return builder, network, parser


def _parser_error(error: Any) -> dict[str, str]:
    return {
        "node": error.node_name() or "",
        "operator": error.node_operator() or "",
        "code": getattr(error.code(), "name", str(error.code())),
        "text": error.desc() or "",
    }


def tensors(network: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The network's inputs and outputs: names, types and shapes, whose first dimension is the batch.

    Raises:
        Failed: another dimension is dynamic, or the batch is not.
    """
    inputs: list[dict[str, Any]] = []
    outputs: list[dict[str, Any]] = []
    for part, number, get in (
        (inputs, network.num_inputs, network.get_input),
        (outputs, network.num_outputs, network.get_output),
    ):
        for tensor in map(get, range(number)):
            shape = list(tensor.shape)
            if shape[:1] != [-1] or -1 in shape[1:]:
                text = f"tensor {tensor.name} has shape {shape}; expected a dynamic batch and fixed dimensions after it"
                raise Failed("shapes", [{"node": "", "operator": "", "code": "", "text": text}])
            dtype = engine_inspect.DTYPES.get(tensor.dtype.name, tensor.dtype.name)
            part.append({"name": tensor.name, "dtype": dtype, "shape": ["batch", *shape[1:]]})
    return inputs, outputs


def configuration(trt: Any, job: dict[str, Any], inputs: list[dict[str, Any]], progress: Any) -> Any:
    """Polygraphy's config loader for a job."""
    from polygraphy.backend.trt import CreateConfig, Profile

    profiles = []
    for limits in job["profiles"]:
        profile = Profile()
        for tensor in inputs:
            shapes = ((limits[key], *tensor["shape"][1:]) for key in ("min", "opt", "max"))
            profile.add(tensor["name"], *shapes)
        profiles.append(profile)
    shared: dict[str, Any] = {
        "profiles": profiles,
        "builder_optimization_level": job["optimization_level"],
        "profiling_verbosity": trt.ProfilingVerbosity.DETAILED,
        "progress_monitor": progress,
    }
    if job["workspace_mib"] is not None:
        shared["memory_pool_limits"] = {trt.MemoryPoolType.WORKSPACE: job["workspace_mib"] << 20}
    if job["flavour"] == "tensorrt_rtx":
        from polygraphy.backend.tensorrt_rtx import CreateConfigRTX

        capabilities = [tuple(map(int, text.split("."))) for text in job["compute_capabilities"]]
        return CreateConfigRTX(use_gpu=not capabilities, compute_capabilities=capabilities or None, **shared)
    levels = {"ampere_plus": "AMPERE_PLUS", "same_compute_capability": "SAME_COMPUTE_CAPABILITY"}
    level = levels.get(job["hardware_compatibility"])
    if level is not None:
        shared["hardware_compatibility_level"] = getattr(trt.HardwareCompatibilityLevel, level)
    shared["version_compatible"] = job["version_compatible"]
    return CreateConfig(load_timing_cache=job["timing_cache"], **shared)


def build(job: dict[str, Any], channel: Channel, cancelled: threading.Event) -> None:
    """Carry out a job; `engine/build.py` describes its fields and the events.

    Raises:
        Failed: the graph cannot be parsed or built.
    """
    trt = tensorrt_library.load(job["flavour"])
    logger = tensorrt_library.collecting_logger(trt)
    from polygraphy.backend.trt import EngineBytesFromNetwork, util
    from polygraphy.exception import PolygraphyException
    from polygraphy.logger import G_LOGGER

    G_LOGGER.module_severity = G_LOGGER.ERROR
    util.TRT_LOGGER = logger  # in place of the one that prints
    channel.send("progress", phase="Parsing", fraction=0.0)
    builder, network, parser = parse(trt, job["onnx"], logger)
    inputs, outputs = tensors(network)
    channel.send("network", heavy=engine_inspect.heavy_layers(network), version=trt.__version__)
    progress = monitor(trt, channel, cancelled)
    config = configuration(trt, job, inputs, progress)
    started, plan = time.monotonic(), None
    try:
        plan = EngineBytesFromNetwork((builder, network, parser), config, save_timing_cache=job["timing_cache"])()
    except PolygraphyException as error:
        logger.messages.append(("ERROR", str(error)))
    build_s = time.monotonic() - started
    if cancelled.is_set():
        return
    broken = [text for _, text in logger.messages if BROKEN_PROFILE in text]
    if plan is None or broken:
        raise Failed("profile" if broken else "build", _log_errors(logger, broken))
    Path(job["plan"]).write_bytes(plan)
    inspected = engine_inspect.inspect(trt, bytes(plan), logger) if tensorrt_library.has_driver() else None
    channel.send(
        "done",
        inputs=inputs,
        outputs=outputs,
        build_s=round(build_s, 3),
        build_peak_mib=round(peak_mib(), 1),
        engine_layers=inspected,
    )


def _log_errors(logger: Any, broken: list[str]) -> list[dict[str, str]]:
    texts = broken or [t for kind, t in logger.messages if kind != "WARNING" and NO_DRIVER not in t]
    return [{"node": "", "operator": "", "code": "", "text": text} for text in texts]


def main(descriptor: int) -> None:
    """Read the job, build, report; leave without TensorRT's teardown, which may crash on a machine without a driver."""
    channel, cancelled = Channel(descriptor), threading.Event()
    job = json.loads(sys.stdin.readline())
    cancel_when_parent_leaves(cancelled)
    code = 0
    try:
        build(job, channel, cancelled)
    except Failed as error:
        channel.send("failed", stage=error.stage, errors=error.errors)
    except Exception as error:
        channel.send("failed", stage="worker", errors=[{"node": "", "operator": "", "code": "", "text": repr(error)}])
        sys.excepthook(type(error), error, error.__traceback__)
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main(int(sys.argv[1]))
