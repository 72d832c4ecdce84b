"""CPU artifacts against torch and against the plain ONNX loop: python benchmarks/cpu_artifacts.py NETWORK [options]

NETWORK is a run folder, whose student and artifacts are taken, or `paper32`: the paper's student architecture at
32×32×3 (6.1 M parameters) with random weights, which serve for time and say nothing of quality.

All of them draw the same images by DDIM, in turns, in one process:
  torch eager        the host loop, both branches in one batch
  torch.compile      the same over the compiled network
  guided ONNX loop   the guided graph called at every step from Python, the update in numpy
  …                  every CPU artifact of the run, as `Model.sample` draws with it
Writes benchmarks/results/cpu-artifacts-<name>.json: medians and 95 % intervals, and each artifact's ratio to the best
of the first three.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import networks
import numpy as np
import torch

from dashdeploy import stages
from dashdeploy.artifact import SIGNATURES, GraphName
from dashdeploy.bench.measure.latency import interleave, median_interval
from dashdeploy.bench.measure.machine import machine
from dashdeploy.diffusion.denoiser import Denoiser, Interface, TorchDenoiser
from dashdeploy.diffusion.sampling import Plan, ddim, plan
from dashdeploy.errors import UserError
from dashdeploy.export import describe
from dashdeploy.export.checks import trajectories
from dashdeploy.export.graph import onnx_file, sampler_graph
from dashdeploy.export.int8 import quantize, quantize_nncf
from dashdeploy.recipe.schema import Sampling
from dashdeploy.runtime.graphs_model import GraphSampler
from dashdeploy.runtime.onnx_session import OnnxSession
from dashdeploy.runtime.opening import artifact_folders, open_path
from dashdeploy.runtime.openvino_model import OpenVinoSession
from dashdeploy.runtime.sessions import Graphs, Session

Draw = Callable[[torch.Tensor, torch.Tensor], object]
BASES = ("torch eager", "torch.compile", "guided ONNX loop")


def plain_loop(session: OnnxSession, interface: Interface, steps: Plan) -> Draw:
    """What an application writes that has the guided graph and numpy."""
    alphas = interface.schedule.alphas_cumprod_from_clean.numpy()

    def draw(noise: torch.Tensor, y: torch.Tensor) -> np.ndarray:
        x, labels, w = noise.numpy(), y.numpy(), np.full(len(y), 2, np.float32)
        for now, previous, _ in steps.steps():
            eps = session.run({"x": x, "t": np.full(len(y), now), "y": labels, "w": w})
            a, b = alphas[now + 1], alphas[previous + 1]
            x_0 = np.clip((x - np.sqrt(1 - a) * eps) / np.sqrt(a), -1, 1)
            eps = (x - np.sqrt(a) * x_0) / np.sqrt(1 - a)
            x = np.sqrt(b) * x_0 + np.sqrt(1 - b) * eps
        return x

    return draw


def torch_loops(denoiser: TorchDenoiser, steps: Plan) -> dict[str, Draw]:
    """Eager, and compiled once for any batch size."""
    compiled = TorchDenoiser(torch.compile(denoiser.unet, dynamic=True), denoiser.interface)

    def loop(which: Denoiser) -> Draw:
        def draw(noise: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            with torch.inference_mode():
                return ddim(which, noise, y, steps)

        return draw

    return {"torch eager": loop(denoiser), "torch.compile": loop(compiled)}


def of_run(folder: Path, threads: int) -> tuple[dict[str, Draw], Interface, Plan]:
    """The student of a run in torch, and its artifacts that open here."""
    student = open_path(folder / "student", threads=threads)
    assert isinstance(student.denoiser, TorchDenoiser)
    interface = student.denoiser.interface
    steps = plan(Sampling(guidance=2.0), interface.schedule.num_train_timesteps)
    calls = torch_loops(student.denoiser, steps)
    plain = OnnxSession(folder / "artifacts" / "onnx-cpu" / "guided.onnx", threads=threads)
    calls["guided ONNX loop"] = plain_loop(plain, interface, steps)
    for artifact in artifact_folders(folder):
        try:
            model = open_path(artifact, threads=threads)
        except UserError as error:
            print(f"left out: {error}")
            continue
        calls[artifact.name] = partial(_drawn, model.sample, steps)
    return calls, interface, steps


def _drawn(draw: Callable[..., torch.Tensor], steps: Plan, noise: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return draw(noise, y, steps)


def _always(session: Session, _: str) -> Session:
    return session


def of_paper(work: Path, threads: int, num_steps: int) -> tuple[dict[str, Draw], Interface, Plan]:
    """The paper's student with random weights, its graphs made as the export stage makes them, without its checks."""
    denoiser = networks.paper("paper32")
    steps = plan(Sampling(guidance=2.0, num_inference_steps=num_steps), 1000)
    calls = torch_loops(denoiser, steps)
    probes = trajectories.draw(denoiser, Sampling(num_inference_steps=4), num_images=8, num_points=4, seed=0)
    macs = describe.macs(denoiser)
    needed: tuple[GraphName, ...] = ("guided", "step")
    files = {
        name: networks.export(denoiser, name, work / f"{name}.onnx", precision="fp32", opset=20, group_norm="instance")
        for name in needed
    }
    calls["guided ONNX loop"] = plain_loop(OnnxSession(files["guided"], threads=threads), denoiser.interface, steps)

    def reader(name: GraphName) -> quantize.Reader:
        return quantize.Reader(probes, SIGNATURES[name][0], null_class=10, scale=2.0)

    calibrated = quantize.calibrate(files["step"], work, reader("step"), method="minmax")
    layers = [layer for layer in calibrated.layers if layer not in quantize.ALWAYS_FLOAT]
    models = {
        "onnx-cpu": onnx_file.load(files["step"]),
        "onnx-cpu-int8": quantize.quantize(calibrated, layers=layers, symmetric=False),
    }
    for label, step in models.items():
        path = onnx_file.save(
            sampler_graph.assemble(step, steps.timesteps, form="loop"),
            work / f"{label}.onnx",
            metadata={},
            single_file_mb=500,
        )
        whole = networks.cpu_sampler(path, denoiser.interface, steps, threads=threads, macs=macs)
        calls[label] = partial(_drawn, whole, steps)
    inputs = SIGNATURES["step"][0]
    int8 = quantize_nncf.quantize(files["step"], reader("step"), quantize.ALWAYS_FLOAT)
    sources = {"openvino": files["step"], "openvino-int8": int8}
    for label, source in sources.items():
        opened = OpenVinoSession(source, inputs=inputs, threads=threads, precision="fp32")
        only = Graphs(("step",), partial(_always, opened))
        sampler = GraphSampler(only, denoiser.interface, clip_sample=True, timesteps=(), host=describe.host(macs))
        calls[label] = partial(_drawn, sampler, steps)
    return calls, denoiser.interface, steps


def median_ms(times: list[float]) -> dict[str, Any]:
    """The median in milliseconds and its 95 % bootstrap interval, null where the runs are too few for one."""
    values = np.array(times) * 1e3
    low, high = (None if np.isnan(v) else v for v in median_interval(values, seed=0))
    return {"median_ms": float(np.median(values)), "low_ms": low, "high_ms": high, "runs": len(values)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", help="a run folder, or paper32")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--steps", type=int, default=50, help="DDIM steps of paper32")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as work:
        paper = options.network == "paper32"
        folder = Path(options.network)
        calls, interface, steps = (
            of_paper(Path(work), options.threads, options.steps) if paper else of_run(folder, options.threads)
        )
        rows = []
        for batch in options.batches:
            noise = torch.randn((batch, *interface.image_shape), generator=torch.Generator().manual_seed(batch))
            y = torch.arange(batch) % interface.num_classes
            bound = {name: lambda draw=draw, noise=noise, y=y: draw(noise, y) for name, draw in calls.items()}
            for call in bound.values():
                call()
            times = interleave(bound, repeats=options.repeats, warm=False)
            found = {name: median_ms(values) for name, values in times.items()}
            best = min(BASES, key=lambda name: found[name]["median_ms"])
            for name, row in found.items():
                ratio = found[best]["median_ms"] / row["median_ms"]
                rows.append({"batch_size": batch, "what": name, **row, "best_base": best, "best_base_over_this": ratio})
                print(f"batch {batch:3}  {name:18} {row['median_ms']:9.1f} ms  {ratio:5.2f}× the best of the bases")
    result = {
        "network": "paper32" if paper else folder.name,
        "num_inference_steps": len(steps.timesteps),
        "guidance": 2.0,
        "threads": options.threads,
        "rows": rows,
        "machine": machine(),
        "versions": stages.versions(),
        "seed": 0,
    }
    path = Path(__file__).parent / "results" / f"cpu-artifacts-{result['network']}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(path.name)


if __name__ == "__main__":
    main()
