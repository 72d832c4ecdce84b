"""ONNX -> TensorRT engine, plain or RTX: checked, built in a separate process, its precision proven, and cached."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO, Any

from dashdeploy import stages
from dashdeploy.artifact import EngineFlags, EngineLayers, EngineRecord, Precision
from dashdeploy.errors import UserError
from dashdeploy.export.engine import cache as engine_cache
from dashdeploy.export.engine import errors as engine_errors
from dashdeploy.export.engine import inspect as engine_inspect
from dashdeploy.export.graph import onnx_file
from dashdeploy.runtime import tensorrt_library
from dashdeploy.runtime.tensorrt_library import TITLES, Flavour, Here
from dashdeploy.target import Engine

Progress = Callable[[str, float], None]
"""(TensorRT's phase, fraction of the whole in 0..1)."""
CANCEL_S = 10.0
"""How long a builder that was told to stop may take; its progress monitor is asked at each step."""
TAIL = 400


def build(
    source: Path,
    plan: Path,
    config: Engine,
    *,
    flavour: Flavour,
    precision: Precision,
    cache: Path,
    on_progress: Progress | None = None,
    float_layers: Collection[str] = (),
) -> EngineRecord:
    """Build an engine and write it to `plan`, or take it from the cache; after an error there is no new plan.

    Every input's and output's first dimension is the batch, the others are fixed. The network is strongly typed:
    it computes in the types of the ONNX graph. `precision` is what they are checked against, before the build.
    TF32 is off.

    Args:
        cache: folder of finished plans and of tensorrt's timing caches; made if it is missing.
        on_progress: called from this thread.
        float_layers: torch names of layers that an int8 graph leaves in float.

    Raises:
        UserError: no library, GPU or supported compute capability; a graph that TensorRT cannot build; or a
            precision that is not the one asked for.
        KeyboardInterrupt: Ctrl-C; the builder has been stopped.
    """
    ready(flavour, config)
    here = tensorrt_library.facts(flavour)
    graph = engine_errors.nodes(source)
    modules = {name: node.module for name, node in graph.items() if node.module}
    onnx_sha256 = graph_sha256(source)
    entry = engine_cache.key(onnx_sha256, flavour, config)

    def accept(stored: dict[str, Any]) -> None:
        engine_inspect.prove(stored["heavy"], precision, float_layers=float_layers, modules=modules)
        engine_inspect.prove_engine(stored.get("engine_layers"), precision)

    described = engine_cache.fetch(cache, entry, plan, accept=accept)
    if described is not None:
        return _record(described, plan, from_cache=True)
    cache.mkdir(parents=True, exist_ok=True)
    title = f"{TITLES[flavour]} {here.version or ''}".strip()
    built: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix=".build-", dir=cache) as work:
        draft = Path(work) / "engine.plan"
        job = _job(source, draft, config, here, cache)
        with closing(_worker(job, Path(work) / "output.txt", title)) as events:
            for event in events:
                kind = event.pop("event")
                if kind == "progress" and on_progress is not None:
                    on_progress(event["phase"], event["fraction"])
                elif kind == "failed":
                    raise engine_errors.translate(event["stage"], event["errors"], source, title=title, graph=graph)
                elif kind in ("network", "done"):
                    built |= event
                    accept(built)
        described = {
            "flavour": flavour,
            "tensorrt": built.pop("version"),
            "cuda": here.cuda,
            "driver_cuda": here.driver_cuda,
            "device_name": here.device_name,
            "compute_capabilities": place(config, here),
            "profiles": job["profiles"],
            "flags": flags(config).model_dump(),
            "onnx_sha256": onnx_sha256,
            **built,
        }
        engine_cache.store(cache, entry, draft, described)
    if engine_cache.fetch(cache, entry, plan) is None:
        raise UserError(f"{cache}: what was just written there reads back damaged. Check the disk, and export again.")
    if on_progress is not None:
        on_progress("Done", 1.0)
    return _record(described, plan, from_cache=False)


def ready(flavour: Flavour, config: Engine) -> None:
    """Refuse at once what `build` would refuse before it starts.

    Raises:
        UserError: a library or a GPU that is missing, or an unsupported compute capability.
    """
    tensorrt_library.require_installed(flavour)
    place(config, tensorrt_library.facts(flavour))


def place(config: Engine, here: Here) -> list[str]:
    """The compute capabilities that an engine is to be built for, or why there is no building it here.

    Raises:
        UserError: no GPU where one is needed, or one that TensorRT-RTX does not build for.
    """
    supported = tensorrt_library.RTX_COMPUTE_CAPABILITIES
    if here.flavour == "tensorrt":
        if here.driver_cuda is None:
            raise UserError(
                "TensorRT builds on the GPU that the engine is for, and there is no CUDA device here. Build on that "
                "machine, or export with `--to rtx`, which builds without a GPU."
            )
        if here.compute_capability is None:
            raise UserError(
                "TensorRT's engine is tied to this machine's GPU, and torch sees none. Install a torch with CUDA."
            )
        return [here.compute_capability]
    wanted: list[str] = list(config.compute_capabilities)
    if not wanted:
        if here.compute_capability is None:
            raise UserError(
                "TensorRT-RTX: there is no GPU here to build for. List the compute capabilities that the engine is "
                'for: engine: {compute_capabilities: ["8.6", "8.9"]}. Known: ' + f"{', '.join(supported)}."
            )
        wanted = [here.compute_capability]
    if unknown := [c for c in wanted if c not in supported]:
        raise UserError(
            f"TensorRT-RTX does not build for compute capability {', '.join(unknown)}; it knows "
            f"{', '.join(supported)}. Server GPUs such as 9.0 are the backend tensorrt's."
        )
    return wanted


def graph_sha256(source: Path) -> str:
    """SHA-256 of a graph: its file's, or over its file's and its weights' where they lie beside it.

    Raises:
        UserError: no such file.
    """
    if not source.is_file():
        raise UserError(f"{source}: no such ONNX file. Export it first.")
    hashes = {name: stages.file_sha256(source.with_name(name)) for name in onnx_file.files(source)}
    return hashes[source.name] if len(hashes) == 1 else stages.digest(sorted(hashes.values()))


def flags(config: Engine) -> EngineFlags:
    """What the builder is told beside profiles and devices."""
    return EngineFlags(
        strongly_typed=True,
        tf32=False,
        workspace_mib=config.workspace_mib,
        optimization_level=config.optimization_level,
        version_compatible=config.version_compatible,
        hardware_compatibility=config.hardware_compatibility,
    )


def _job(source: Path, plan: Path, config: Engine, here: Here, cache: Path) -> dict[str, Any]:
    """What a worker is told; without compute_capabilities it builds for the GPU that is here."""
    return {
        **config.model_dump(mode="json"),
        "flavour": here.flavour,
        "onnx": str(source.resolve()),
        "plan": str(plan.resolve()),
        "timing_cache": _timing_cache(config, cache, here),
    }


def _timing_cache(config: Engine, cache: Path, here: Here) -> str | None:
    """tensorrt's timing cache: one for each device, library and CUDA, which Polygraphy locks and merges into."""
    if here.flavour == "tensorrt_rtx":
        return None
    if config.timing_cache is not None:
        path = Path(config.timing_cache).resolve()
        path.parent.mkdir(parents=True, exist_ok=True)
        return str(path)
    name = stages.digest([here.device_name, here.compute_capability, here.version, here.driver_cuda])[:16]
    return str((cache / f"timing-{name}.cache").resolve())


def _record(described: dict[str, Any], plan: Path, *, from_cache: bool) -> EngineRecord:
    """What the manifest keeps of an engine, from what the cache keeps."""
    heavy, inspected = described["heavy"], described["engine_layers"]
    layers = EngineLayers(
        source=engine_inspect.SOURCE if inspected is None else engine_inspect.WITH_INSPECTOR,
        heavy=engine_inspect.counts(heavy),
        engine=inspected,
    )
    return EngineRecord.model_validate(
        {
            **{key: value for key, value in described.items() if key not in ("heavy", "engine_layers")},
            "plan_sha256": stages.file_sha256(plan),
            "plan_bytes": plan.stat().st_size,
            "layers": layers,
            "from_cache": from_cache,
        }
    )


def _worker(job: dict[str, Any], output: Path, title: str) -> Generator[dict[str, Any], None, None]:
    """The events of a worker process.

    Raises:
        UserError: it died before it was done.
    """
    last, phase = "", "Starting"
    with output.open("w") as printed, _process(job, printed) as (process, events):
        for line in events:
            event = json.loads(line)
            last, phase = event["event"], event.get("phase", phase)
            yield event
        code = process.wait()
    if last not in ("done", "failed"):
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        memory = " The machine may be out of memory." if code == -signal.SIGKILL else ""
        words = " ".join(output.read_text(errors="replace").split())[-TAIL:]
        raise UserError(
            f"{title}'s builder {how} in the phase {phase!r} of {Path(job['onnx']).name}.{memory}"
            f"{f' Its last words: {words}.' if words else ''} What to do: try another opset (22, 20) or precision, "
            "or lower the largest max in engine.profiles."
        )


@contextmanager
def _process(job: dict[str, Any], printed: IO[str]) -> Iterator[tuple[subprocess.Popen[str], IO[str]]]:
    """A worker and its events; it is stopped when the block is left early, by an error or by Ctrl-C."""
    reading, writing = os.pipe()
    package = str(Path(__file__).resolve().parents[3])
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, **tensorrt_library.environment(job["flavour"]), "PYTHONPATH": os.pathsep.join(paths)}
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "dashdeploy.export.engine.worker", str(writing)],
        stdin=subprocess.PIPE,
        stdout=printed,
        stderr=subprocess.STDOUT,
        env=environment,
        pass_fds=(writing,),
        start_new_session=True,  # a terminal's Ctrl-C comes here, and the worker is told by its stdin
        text=True,
    )
    os.close(writing)
    assert process.stdin is not None
    try:
        with os.fdopen(reading) as events:
            process.stdin.write(json.dumps(job) + "\n")
            process.stdin.flush()
            yield process, events
    finally:
        try:
            process.stdin.close()
            process.wait(CANCEL_S)
        except (subprocess.TimeoutExpired, BrokenPipeError):
            process.kill()
            process.wait()
