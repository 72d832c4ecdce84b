"""The C++ runtime against the Python runtime on the same artifacts: python benchmarks/cpp_runtime.py RUN

Builds the C++ runtime with every backend that CMake finds (what it needs to find them is passed on, as in
`--cmake=-DONNXRUNTIME_ROOT=…`; OpenVINO's Python package is found by itself), then draws 1, 8 and 64 images in the
steps of the recipe, in turns: dashdeploy-sample in a process of its own and the Python runtime, each by the graph that
it takes by itself and step by step. Beside it the share of the C++ loop outside of the inference library. Writes
benchmarks/results/cpp-runtime.json, of a few-step student cpp-runtime-few.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import openvino
import torch

import dashdeploy.runtime
from dashdeploy import stages
from dashdeploy.bench.measure.machine import machine
from dashdeploy.diffusion.sampling import initial_noise, plan
from dashdeploy.locate import data_root
from dashdeploy.runtime.graphs_model import GraphSampler
from dashdeploy.runtime.model import Model

BATCHES = {1: 8, 8: 4, 64: 2}  # batch -> runs of one turn
ROUNDS, SCALE, SEED = 5, 2.0, 7
OPENVINO = Path(openvino.__file__).parent / "cmake"


def build(folder: Path, options: list[str]) -> Path:
    """The program, built from the sources that the package ships."""
    source = data_root("exporters") / "cpp"
    given = [f"-DOpenVINO_DIR={OPENVINO}", *options]
    for command in (["cmake", "-S", source, "-B", folder, *given], ["cmake", "--build", folder, "-j"]):
        subprocess.run([str(part) for part in command], check=True, stdout=sys.stderr)
    return folder / "dashdeploy-sample"


class Artifact:
    """One artifact opened in Python, and called in C++."""

    def __init__(self, program: Path, folder: Path, model: Model, threads: int, work: Path) -> None:
        self.program, self.folder, self.model, self.threads, self.out = program, folder, model, threads, work / "x.f32"
        interface = model.denoiser.interface
        self.plan = plan(model.sampling, interface.schedule.num_train_timesteps, scale=SCALE, grids=interface.grids)

    def cpp(self, batch: int, runs: int, *, by_step: bool) -> tuple[list[float], float]:
        labels = ",".join(str(i % 10) for i in range(batch))
        options = ["--labels", labels, "-w", str(SCALE), "--steps", str(len(self.plan.timesteps)), "--seed", str(SEED)]
        more = ["--threads", str(self.threads), "--repeat", str(runs), "--out", str(self.out)]
        command = [str(self.program), str(self.folder), *options, *more, *(["--loop"] if by_step else [])]
        said = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        return said["run_ms"], said["outside_backend"]

    def python(self, batch: int, runs: int, *, by_step: bool) -> list[float]:
        labels = torch.arange(batch) % 10
        noise = initial_noise(SEED, 0, batch, self.model.denoiser.interface.image_shape)
        sampler = self.model.sampler
        assert isinstance(sampler, GraphSampler)
        kept, sampler.timesteps = sampler.timesteps, () if by_step else sampler.timesteps
        try:
            times = []
            for _ in range(runs + 1):  # the first is warm-up, as in the C++ program
                start = time.perf_counter()
                self.model.sample(noise, labels, self.plan)
                times.append(1e3 * (time.perf_counter() - start))
        finally:
            sampler.timesteps = kept
        return times[1:]


def measure(artifact: Artifact, batch: int, runs: int) -> dict[str, Any]:
    found: dict[str, list[float]] = {"cpp": [], "cpp_step": [], "python": [], "python_step": []}
    outside = []
    for _ in range(ROUNDS):
        found["cpp"] += artifact.cpp(batch, runs, by_step=False)[0]
        times, share = artifact.cpp(batch, runs, by_step=True)
        found["cpp_step"] += times
        outside.append(share)
        found["python"] += artifact.python(batch, runs, by_step=False)
        found["python_step"] += artifact.python(batch, runs, by_step=True)
    medians = {f"{name}_ms": statistics.median(times) for name, times in found.items()}
    return {
        "artifact": artifact.folder.name,
        "batch_size": batch,
        "runs": ROUNDS * runs,
        "python_graph": artifact.model.graph_for(artifact.plan, batch),
        **medians,
        "python_over_cpp": medians["python_ms"] / medians["cpp_ms"],
        "python_step_over_cpp_step": medians["python_step_ms"] / medians["cpp_step_ms"],
        "outside_backend": statistics.median(outside),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--artifacts", nargs="+", default=["openvino", "openvino-int8"])
    parser.add_argument("--cmake", action="append", default=[], help="an option for CMake; repeatable")
    options = parser.parse_args()
    threads, rows = torch.get_num_threads(), []
    with tempfile.TemporaryDirectory() as work:
        program = build(Path(work) / "build", options.cmake)
        for name in options.artifacts:
            folder = options.run / "artifacts" / name
            with dashdeploy.runtime.open(folder, threads=threads) as model:
                artifact = Artifact(program, folder, model, threads, Path(work))
                for batch, runs in BATCHES.items():
                    rows.append(measure(artifact, batch, runs))
                    print(json.dumps(rows[-1]), file=sys.stderr)
    result = {
        "run": options.run.name,
        "num_inference_steps": len(artifact.plan.timesteps),
        "guidance": SCALE,
        "seed": SEED,
        "threads": threads,
        "rows": rows,
        "machine": machine(),
        "versions": stages.versions(),
    }
    name = "cpp-runtime-few.json" if artifact.model.denoiser.interface.grids else "cpp-runtime.json"
    path = Path(__file__).parent / "results" / name
    path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
