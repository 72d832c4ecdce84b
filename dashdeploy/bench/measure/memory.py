"""Peak memory of a model, measured in a separate process that does nothing else.

An artifact for ONNX Runtime or OpenVINO runs as an application would run it, with its runtime and numpy only; see
memory_probe.py. Other models need torch: python -m dashdeploy.bench.measure.memory FOLDER BATCH_SIZE THREADS opens one
as a `Model`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from dashdeploy.artifact import Artifact, GraphName, TensorSpec
from dashdeploy.peak_memory import peak_mib
from dashdeploy.runtime import openvino_model

STEPS = 3
APART = ("onnxruntime", "openvino")
"""Runtimes that run a graph without torch."""


def peak_rss_mib(
    folder: Path, artifact: Artifact | None, graph: GraphName | None, *, batch_size: int, threads: int
) -> float:
    """Largest resident memory (MiB) of a process that opens a model and runs it at batch_size.

    Args:
        artifact: what the folder holds. None: a torch model.
        graph: of an artifact for ONNX Runtime or OpenVINO, the one that is opened and runs: once if it holds all steps,
            else STEPS times. Any other model runs STEPS guided steps.

    Raises:
        RuntimeError: the process fails.
    """
    if artifact is not None and graph is not None and artifact.backend in APART:
        job = _job(folder, artifact, graph, batch_size=batch_size, threads=threads)
        command = [sys.executable, "-m", "dashdeploy.bench.measure.memory_probe", json.dumps(job)]
    else:
        rest = [str(folder.absolute()), str(batch_size), str(threads)]
        command = [sys.executable, "-m", "dashdeploy.bench.measure.memory", *rest]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise RuntimeError(f"memory probe of {folder} failed: {done.stderr[-2000:]}")
    return float(json.loads(done.stdout)["peak_rss_mib"])


def _job(folder: Path, artifact: Artifact, graph: GraphName, *, batch_size: int, threads: int) -> dict[str, Any]:
    described = artifact.graphs[graph]

    def feed(spec: TensorSpec) -> tuple[str, list[int], int]:
        return spec.dtype, [batch_size, *spec.sides], 2 if spec.name == "w" else 0

    return {
        "backend": artifact.backend,
        "path": str((folder / described.file).absolute()),
        "feeds": {spec.name: feed(spec) for spec in described.inputs},
        "runs": 1 if graph == "sampler" else STEPS,
        "threads": threads,
        "providers": list(artifact.providers),
        "settings": openvino_model.settings(artifact.precision, threads=threads),
    }


def main(folder: Path, batch_size: int, threads: int) -> None:
    """Open a model, run guided steps, and print the peak memory of this process."""
    import torch

    from dashdeploy.runtime.opening import open_path

    with open_path(folder, threads=threads) as model, torch.inference_mode():
        x = torch.zeros((batch_size, *model.denoiser.interface.image_shape), device=model.device)
        t = y = torch.zeros(batch_size, dtype=torch.int64, device=model.device)
        for _ in range(STEPS):
            model.denoiser.guided(x, t, y, torch.full((batch_size,), 2.0, device=model.device))
    print(json.dumps({"peak_rss_mib": peak_mib()}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
