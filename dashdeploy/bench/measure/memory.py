"""Peak memory of a model, measured in a separate process that does nothing else.

python -m dashdeploy.bench.measure.memory FOLDER BATCH_SIZE THREADS prints one JSON object. An artifact of ONNX Runtime
runs with ONNX Runtime and numpy only, without torch, as in an application. Other models are opened as `Model`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from dashdeploy import manifest, stages
from dashdeploy.artifact import Artifact
from dashdeploy.peak_memory import peak_mib

STEPS = 3


def peak_rss_mib(folder: Path, *, batch_size: int, threads: int | None) -> float:
    """Largest resident memory (MiB) of a process that loads the model and runs a few guided steps of batch_size.

    Raises:
        RuntimeError: the process fails.
    """
    command = [
        sys.executable,
        "-m",
        "dashdeploy.bench.measure.memory",
        str(folder.absolute()),
        str(batch_size),
        str(threads or 0),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise RuntimeError(f"memory probe of {folder} failed: {done.stderr[-2000:]}")
    return float(json.loads(done.stdout)["peak_rss_mib"])


def main(folder: Path, batch_size: int, threads: int | None) -> None:
    """Load, run, and print the peak memory of this process."""
    path = folder / stages.MANIFEST
    text = path.read_text() if path.is_file() else "{}"
    if json.loads(text).get("artifact", {}).get("backend") == "onnxruntime":
        _run_onnx(folder, manifest.parse(text, source=path).artifact, batch_size, threads)
    else:
        _run_opened(folder, batch_size, threads)
    print(json.dumps({"peak_rss_mib": peak_mib()}))


def _run_onnx(folder: Path, artifact: Artifact, batch_size: int, threads: int | None) -> None:
    import numpy as np

    from dashdeploy.runtime.onnx_session import OnnxSession

    graph = artifact.graphs["guided"]
    session = OnnxSession(folder / graph.file, threads=threads, providers=list(artifact.providers))
    feeds = {spec.name: np.zeros((batch_size, *map(int, spec.shape[1:])), spec.dtype) for spec in graph.inputs}
    feeds["w"] += 2
    for _ in range(STEPS):
        session.run(feeds)
    session.close()


def _run_opened(folder: Path, batch_size: int, threads: int | None) -> None:
    import torch

    from dashdeploy.runtime.opening import open_path

    with open_path(folder, threads=threads) as model, torch.inference_mode():
        x = torch.zeros((batch_size, *model.denoiser.interface.image_shape), device=model.device)
        t = y = torch.zeros(batch_size, dtype=torch.int64, device=model.device)
        for _ in range(STEPS):
            model.denoiser.guided(x, t, y, torch.full((batch_size,), 2.0, device=model.device))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]) or None)
