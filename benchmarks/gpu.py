"""Everything that only an NVIDIA GPU can show: python benchmarks/gpu.py [RUN] [--networks …] [--name NAME]

For each network and each way to run it: parity of guided eps with torch float32 (relative error), one guided step and
the whole DDIM sampler at batch 1, 8 and 64, in turns, medians with 95 % intervals. Ways:
  torch eager, torch eager float16, torch.compile, torch CUDA graph of a step,
  ONNX Runtime CUDA (float32 and float16),
  TensorRT and TensorRT-RTX (float32, float16, int8), with CUDA graphs.
What is not installed, or does not build for this GPU, is skipped and named with its reason. Networks: the student of
RUN, if one is given, and the paper's student and teacher architectures with random weights, which serve for time.
Writes benchmarks/results/gpu-<name>.json.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import networks
import torch
from cpu_artifacts import median_ms

from dashdeploy import stages
from dashdeploy.artifact import SIGNATURES, Flavour, Graph, Precision
from dashdeploy.artifact.engine import TensorSpec
from dashdeploy.bench.measure.latency import interleave
from dashdeploy.bench.measure.machine import machine
from dashdeploy.diffusion.denoiser import TorchDenoiser
from dashdeploy.diffusion.sampling import Plan, plan
from dashdeploy.errors import UserError
from dashdeploy.export.checks import trajectories
from dashdeploy.export.engine import build as engine_build
from dashdeploy.export.graph import graphs, onnx_file, rewrite
from dashdeploy.export.int8 import quantize
from dashdeploy.metrics.gap import relative_error
from dashdeploy.recipe.schema import Sampling
from dashdeploy.runtime.onnx_session import OnnxSession
from dashdeploy.runtime.onnxruntime_model import DeviceSession
from dashdeploy.runtime.tensorrt_session import TensorRTSession
from dashdeploy.target import Engine, Profile

Step = Callable[..., torch.Tensor]
"""x, t, t_prev, y, w -> x_prev, on the device."""
DEVICE = torch.device("cuda", 0)


class CudaGraphStep:
    """A torch step replayed from one CUDA graph a batch size."""

    def __init__(self, step: Step) -> None:
        self.step = step
        self.shapes: dict[int, Any] = {}

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
        batch = len(inputs[0])
        if batch not in self.shapes:
            held = [tensor.clone() for tensor in inputs]
            stream = torch.cuda.Stream()
            with torch.cuda.stream(stream):
                for _ in range(3):
                    self.step(*held)
            stream.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                out = self.step(*held)
            self.shapes[batch] = (graph, held, out)
        graph, held, out = self.shapes[batch]
        for buffer, tensor in zip(held, inputs, strict=True):
            buffer.copy_(tensor)
        graph.replay()
        return out.clone()


class OneStep(torch.nn.Module):
    """What the step graph computes, as one torch module: x, t, t_prev, y, w -> x at t_prev."""

    def __init__(self, denoiser: TorchDenoiser) -> None:
        super().__init__()
        self.denoiser, self.update = denoiser, graphs.Update(denoiser.interface, clip_sample=True)

    def forward(
        self, x: torch.Tensor, t: torch.Tensor, t_prev: torch.Tensor, y: torch.Tensor, w: torch.Tensor
    ) -> torch.Tensor:
        x_prev: torch.Tensor = self.update(x, self.denoiser.guided(x, t, y, w), t, t_prev)
        return x_prev


def torch_ways(denoiser: TorchDenoiser) -> Iterator[tuple[str, Callable[[], Step]]]:
    """Ways that need torch alone."""

    def step(precision: str) -> torch.nn.Module:
        inner = denoiser if precision == "fp32" else rewrite.for_export(denoiser, group_norm="native", precision="fp16")
        return OneStep(inner).to(DEVICE).eval()

    yield "torch eager", lambda: step("fp32")
    yield "torch eager fp16", lambda: step("fp16")
    yield "torch.compile", lambda: torch.compile(step("fp32"))
    yield "torch.compile fp16", lambda: torch.compile(step("fp16"))
    yield "torch CUDA graph", lambda: CudaGraphStep(step("fp32"))
    yield "torch CUDA graph fp16", lambda: CudaGraphStep(step("fp16"))


class Files:
    """The step graph of one network as ONNX, by precision, made when it is needed."""

    def __init__(self, denoiser: TorchDenoiser, work: Path) -> None:
        self.denoiser, self.work = denoiser, work

    def step(self, precision: Precision) -> Path:
        """The file; int8 is symmetric Q/DQ, as TensorRT takes it."""
        path = self.work / f"step-{precision}.onnx"
        if path.is_file():
            return path
        if precision != "int8":
            return networks.export(self.denoiser, "step", path, precision=precision, opset=22, group_norm="native")
        plain = networks.export(
            self.denoiser, "step", self.work / "plain.onnx", precision="fp32", opset=20, group_norm="native"
        )
        probes = trajectories.draw(self.denoiser, Sampling(num_inference_steps=4), num_images=8, num_points=4, seed=0)
        reader = quantize.Reader(probes, SIGNATURES["step"][0], null_class=10, scale=2.0)
        calibrated = quantize.calibrate(plain, self.work, reader, method="minmax")
        layers = [layer for layer in calibrated.layers if layer not in quantize.ALWAYS_FLOAT]
        model = quantize.quantize(calibrated, layers=layers, symmetric=True)
        return onnx_file.save(model, path, metadata={}, single_file_mb=1000)

    def entry(self, path: Path) -> Graph:
        """What a manifest says of it."""
        image = self.denoiser.interface.image_shape
        sides = {"x": image, "x_prev": image}
        integers = ("t", "t_prev", "y")

        def spec(name: str) -> TensorSpec:
            dtype = "int64" if name in integers else "float32"
            return TensorSpec(name=name, dtype=dtype, shape=("batch", *sides.get(name, ())))

        names, output = SIGNATURES["step"]
        return Graph(
            file=path.name,
            files=tuple(onnx_file.files(path)),
            onnx_sha256=stages.file_sha256(path),
            inputs=tuple(map(spec, names)),
            outputs=(spec(output),),
        )


def onnx_ways(files: Files) -> Iterator[tuple[str, Callable[[], Step]]]:
    """ONNX Runtime's CUDA provider."""

    def opened(precision: Precision) -> DeviceSession:
        path = files.step(precision)
        session = OnnxSession(path, inputs=SIGNATURES["step"][0], providers=("CUDAExecutionProvider",))
        return DeviceSession(session, files.entry(path), DEVICE)

    wanted: tuple[Precision, ...] = ("fp32", "fp16")
    for precision in wanted:
        yield f"ONNX Runtime CUDA {precision}", partial(opened, precision)


def engine_ways(files: Files, batches: list[int], records: dict[str, Any]) -> Iterator[tuple[str, Callable[[], Step]]]:
    """Both flavours of TensorRT."""
    profile = Profile(min=min(batches), opt=sorted(batches)[len(batches) // 2], max=max(batches))

    def built(flavour: Flavour, precision: Precision) -> TensorRTSession:
        path = files.step(precision)
        name = f"{flavour} {precision}"
        record = engine_build.build(
            path,
            files.work / f"{flavour}-{precision}.plan",
            Engine(profiles=(profile,)),
            flavour=flavour,
            precision=precision,
            cache=files.work / "engines",
            float_layers=quantize.ALWAYS_FLOAT if precision == "int8" else (),
        )
        kept = {"build_s", "build_peak_mib", "plan_bytes", "layers", "tensorrt"}
        records[name] = record.model_dump(mode="json", include=kept)
        entry = files.entry(path)
        return TensorRTSession(
            files.work / f"{flavour}-{precision}.plan",
            flavour=flavour,
            inputs=entry.inputs,
            outputs=entry.outputs,
            profiles=record.profiles,
        )

    flavours: tuple[Flavour, ...] = ("tensorrt", "tensorrt_rtx")
    precisions: tuple[Precision, ...] = ("fp32", "fp16", "int8")
    for flavour in flavours:
        for precision in precisions:
            yield f"{flavour} {precision}", partial(built, flavour, precision)


def inputs(denoiser: TorchDenoiser, batch: int) -> tuple[torch.Tensor, ...]:
    """A step's inputs on the device: neighbours differ in label and guidance."""
    generator = torch.Generator().manual_seed(batch)
    x = torch.randn((batch, *denoiser.interface.image_shape), generator=generator)
    t = torch.full((batch,), 500)
    y = torch.arange(batch) % denoiser.interface.num_classes
    w = 1.0 + torch.arange(batch) % 3
    return tuple(v.to(DEVICE) for v in (x, t, t - 20, y, w.float()))


@torch.inference_mode()
def draw(step: Step, denoiser: TorchDenoiser, batch: int, steps: Plan) -> torch.Tensor:
    """All DDIM steps; nothing comes back to the host before the end."""
    x, _, _, y, w = inputs(denoiser, batch)
    for now, previous, _ in steps.steps():
        x = step(x, torch.full_like(y, now), torch.full_like(y, previous), y, w)
    torch.cuda.synchronize()
    return x


def measure(name: str, work: Path, options: argparse.Namespace) -> dict[str, Any]:
    """One network, every way."""
    denoiser = networks.load(name)
    steps = plan(Sampling(num_inference_steps=options.steps), 1000)
    files = Files(denoiser, work)
    engines: dict[str, Any] = {}
    found: dict[str, Any] = {"network": Path(name).name, "skipped": [], "rows": [], "parity": {}, "engines": engines}
    ways: dict[str, Step] = {}
    with torch.inference_mode():
        reference = OneStep(denoiser).eval()
        expected = reference(*(v.cpu() for v in inputs(denoiser, 8)))
        for title, make in (*torch_ways(denoiser), *onnx_ways(files), *engine_ways(files, options.batches, engines)):
            start = time.perf_counter()
            try:
                way = make()
                error = relative_error(way(*inputs(denoiser, 8)).float().cpu(), expected)
            except (UserError, RuntimeError, OSError, ImportError) as problem:
                found["skipped"].append({"way": title, "why": " ".join(str(problem).split())[:400]})
                print(f"{name}: {title}: skipped: {found['skipped'][-1]['why'][:150]}")
                continue
            ways[title] = way
            found["parity"][title] = error
            print(f"{name}: {title}: ready in {time.perf_counter() - start:.1f} s, relative error {error:.1e}")
    for batch in options.batches:
        given = inputs(denoiser, batch)

        def one(way: Step, given: tuple[torch.Tensor, ...] = given) -> None:
            with torch.inference_mode():
                way(*given)
            torch.cuda.synchronize()

        step_calls = {title: lambda way=way: one(way) for title, way in ways.items()}
        draw_calls = {
            title: lambda way=way, batch=batch: draw(way, denoiser, batch, steps) for title, way in ways.items()
        }
        for scope, calls, repeats in (("step", step_calls, options.repeats), ("sampler", draw_calls, options.samplers)):
            for call in calls.values():
                call()
            for title, times in interleave(calls, repeats=repeats, warm=scope == "step").items():
                row = {"way": title, "scope": scope, "batch_size": batch, **median_ms(times)}
                found["rows"].append({**row, "images_per_s": batch / row["median_ms"] * 1e3})
                print(f"{name}: {scope:7} batch {batch:3}  {title:26} {row['median_ms']:9.3f} ms")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", help="a run folder, whose student is measured too")
    parser.add_argument("--networks", nargs="*", default=list(networks.PAPER), choices=list(networks.PAPER))
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=50, help="timed single steps")
    parser.add_argument("--samplers", type=int, default=7, help="timed samplers")
    parser.add_argument("--name", help="of the result's file; default: the GPU's")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("error: no NVIDIA GPU that torch sees. On one: python benchmarks/gpu.py runs/digits")
    gpu = torch.cuda.get_device_name(DEVICE)
    result = {
        "gpu": gpu,
        "compute_capability": ".".join(map(str, torch.cuda.get_device_capability(DEVICE))),
        "num_inference_steps": options.steps,
        "machine": machine(),
        "versions": stages.versions(),
        "seed": 0,
        "networks": [],
    }
    path = Path(__file__).parent / "results" / f"gpu-{options.name or gpu.lower().replace(' ', '-')}.json"
    for name in [*([options.run] if options.run else []), *options.networks]:
        with tempfile.TemporaryDirectory() as work:
            result["networks"].append(measure(name, Path(work), options))
        path.write_text(json.dumps(result, indent=1) + "\n")  # what is done is kept if a later one fails
    print(path.name)


if __name__ == "__main__":
    main()
