"""The whole sampler as an ONNX Loop or unrolled: python benchmarks/sampler_forms.py RUN

Makes both forms of the run's onnx-cpu step graph, for the steps of the artifact, and measures, in ONNX Runtime: the
file, the time to assemble it, to load it with one image drawn, and to draw 1, 8 and 64 images; beside them the step
graph fed back from Python. Both samplers cut a batch over the threads. Writes benchmarks/results/sampler-forms.json, of
a few-step student sampler-forms-few.json.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import networks
import numpy as np
import onnx
import torch

from dashdeploy import stages
from dashdeploy.artifact import SIGNATURES
from dashdeploy.bench.measure.latency import interleave
from dashdeploy.bench.measure.machine import machine
from dashdeploy.diffusion.sampling import plan
from dashdeploy.export.graph import onnx_file, sampler_graph
from dashdeploy.runtime.graphs_model import GraphSampler
from dashdeploy.runtime.onnx_session import OnnxSession
from dashdeploy.runtime.opening import open_path

BATCHES = (1, 8, 64)
REPEATS = 7


def main(folder: Path) -> None:
    source = folder / "artifacts" / "onnx-cpu" / "step.onnx"
    threads = torch.get_num_threads()
    model = open_path(source.parent)
    interface = model.denoiser.interface
    steps = plan(model.sampling, interface.schedule.num_train_timesteps, grids=interface.grids)
    step = onnx.load(source)
    shape = [d.dim_value for d in step.graph.input[0].type.tensor_type.shape.dim][1:]
    forms: dict[str, dict[str, Any]] = {}
    samplers: dict[str, GraphSampler] = {}
    with tempfile.TemporaryDirectory() as work:
        for form in ("loop", "unrolled"):
            start = time.perf_counter()
            whole = sampler_graph.assemble(step, steps.timesteps, form=form)
            path = onnx_file.save(whole, Path(work) / f"{form}.onnx", metadata={}, single_file_mb=2000)
            made = time.perf_counter() - start
            start = time.perf_counter()
            samplers[form] = networks.cpu_sampler(
                path, interface, steps, threads=threads, macs=0
            )  # as of any small network
            samplers[form](torch.zeros(1, *shape), torch.zeros(1, dtype=torch.int64), steps)
            forms[form] = {"bytes": path.stat().st_size, "make_s": made, "load_s": time.perf_counter() - start}
        alone = OnnxSession(source, inputs=SIGNATURES["step"][0], threads=threads)
        rows = []
        for batch in BATCHES:
            noise = np.random.default_rng(batch).standard_normal((batch, *shape)).astype(np.float32)
            y, w = np.arange(batch) % 10, np.full((batch, len(steps.timesteps)), 2, np.float32)

            def loop(noise: np.ndarray = noise, y: np.ndarray = y, w: np.ndarray = w) -> None:
                x = noise
                for i, (now, previous, _) in enumerate(steps.steps()):
                    t, t_prev = np.full(len(y), now), np.full(len(y), previous)
                    x = alone.run({"x": x, "t": t, "t_prev": t_prev, "y": y, "w": w[:, i]})

            calls: dict[str, Any] = {"step, fed back": loop}
            for form, draw in samplers.items():
                calls[form] = lambda draw=draw, x=noise, y=y: draw(torch.from_numpy(x), torch.from_numpy(y), steps)
            for call in calls.values():
                call()
            for name, times in interleave(calls, repeats=REPEATS, warm=False).items():
                rows.append({"form": name, "batch_size": batch, "median_ms": float(np.median(times) * 1e3)})
                print(f"batch {batch:3}  {name:16} {rows[-1]['median_ms']:8.1f} ms")
    for form, found in forms.items():
        print(
            f"{form:10} {found['bytes'] / 1e6:.2f} MB, made in {found['make_s']:.2f} s, "
            f"loaded in {found['load_s']:.2f} s"
        )
    result = {
        "run": folder.name,
        "num_inference_steps": len(steps.timesteps),
        "threads": threads,
        "repeats": REPEATS,
        "forms": forms,
        "rows": rows,
        "machine": machine(),
        "versions": stages.versions(),
    }
    name = "sampler-forms-few.json" if interface.grids else "sampler-forms.json"
    path = Path(__file__).parent / "results" / name
    path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
