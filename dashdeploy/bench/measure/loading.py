"""How long a model takes to open, and to make its first image, each time in a process that has not done so before.

python -m dashdeploy.bench.measure.loading JOB, with JOB as JSON, prints one JSON list. That process imports the
runtimes once and forks for every opening, so that each starts with the imports done and nothing else: imports are not
counted.
The files are in the page cache, as for an application that is started again. On a GPU, the start of CUDA counts.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Any

from dashdeploy.lazy import resolve
from dashdeploy.recipe.schema import Sampling

REPEATS = 3
MODULES = {
    "torch": "dashdeploy.runtime.torch_model",
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "tensorrt": "tensorrt",
    "tensorrt_rtx": "tensorrt_rtx",
}
"""Runtime -> the module that it imports when it opens its first model."""


def load_times(
    folders: dict[str, Path],
    runtimes: Iterable[str],
    samplings: dict[str, Sampling],
    *,
    threads: int,
    repeats: int = REPEATS,
) -> dict[str, tuple[float, float]]:
    """By model, medians in ms: (time to open it until the sampler's graph is ready, time of the first image then).

    Args:
        folders: by model.
        runtimes: of all these models.
        samplings: by model.

    Raises:
        RuntimeError: a model cannot be opened in the measuring process.
    """
    job = {
        "folders": [str(folder.absolute()) for folder in folders.values()],
        "runtimes": sorted(set(runtimes)),
        "samplings": [samplings[name].model_dump(mode="json") for name in folders],
        "threads": threads,
        "repeats": repeats,
    }
    command = [sys.executable, "-m", "dashdeploy.bench.measure.loading", json.dumps(job)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise RuntimeError(f"measuring load times failed: {done.stderr[-2000:]}")
    seconds = json.loads(done.stdout.splitlines()[-1])
    return {
        name: (median(opened for opened, _ in times) * 1e3, median(first for _, first in times) * 1e3)
        for name, times in zip(folders, seconds, strict=True)
    }


def main(job: dict[str, Any]) -> None:
    """Import, then fork for each opening; the folders take turns."""
    from dashdeploy.runtime import RUNTIMES

    for runtime in job["runtimes"]:
        if runtime in RUNTIMES:
            resolve("runtime", RUNTIMES, runtime)
        if runtime in MODULES:
            importlib.import_module(MODULES[runtime])
    seconds: list[list[tuple[float, float]]] = [[] for _ in job["folders"]]
    for _ in range(job["repeats"]):
        for times, folder, sampling in zip(seconds, job["folders"], job["samplings"], strict=True):
            times.append(_forked(Path(folder), Sampling.model_validate(sampling), job["threads"]))
    print(json.dumps(seconds))


def _forked(folder: Path, sampling: Sampling, threads: int) -> tuple[float, float]:
    """`timed` in a fork of this process."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(read)
            os.write(write, json.dumps(timed(folder, sampling, threads)).encode())
            status = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(write)
    with os.fdopen(read) as pipe:
        text = pipe.read()
    _, status = os.waitpid(child, 0)
    if status != 0:
        raise RuntimeError(f"opening {folder} failed with status {status}")
    opened, first = json.loads(text)
    return opened, first


def timed(folder: Path, sampling: Sampling, threads: int) -> tuple[float, float]:
    """(seconds to open a model with the graph of its sampler, seconds of its first image)."""
    import torch

    from dashdeploy.diffusion.sampling import plan
    from dashdeploy.runtime.graphs_model import GraphSampler
    from dashdeploy.runtime.opening import open_path

    start = time.perf_counter()
    model = open_path(folder, threads=threads)
    interface = model.denoiser.interface
    run = plan(sampling, interface.schedule.num_train_timesteps, grids=interface.grids)
    if isinstance(model.sampler, GraphSampler):
        model.sampler.graphs[model.graph_for(run)]  # sessions are opened when they are first asked for
    opened = time.perf_counter() - start
    noise, y = torch.zeros((1, *interface.noise_shape(run))), torch.zeros(1, dtype=torch.int64)
    start = time.perf_counter()
    with torch.inference_mode():
        # Taken to the host: the image is there when the call returns.
        model.sample(noise.to(model.device), y.to(model.device), run).cpu()
    return opened, time.perf_counter() - start


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
