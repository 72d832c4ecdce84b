"""What int8 costs the guidance and what it gains, layer by layer: python benchmarks/int8_tradeoff.py RUN

For the run's student in ONNX Runtime: all convolutions in int8, then the most sensitive 1, 2, 4, … of them left in
float. Each with the gate's gap error and cosine, FID and its change against float32 at w = 1, 2 and 4 from the same
noise, and the time of 50 steps at batch 64 with its ratio to float32, in turns. Beside them where the error comes from
(int8 weights alone; int8 activations alone) and where a step's time goes by operator, float32 and int8. Writes
benchmarks/results/int8-tradeoff.json.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import networks
import numpy as np
import onnx
import onnxruntime
import torch
from cpu_artifacts import median_ms

from dashdeploy import stages
from dashdeploy.artifact import SIGNATURES
from dashdeploy.bench.measure.latency import interleave
from dashdeploy.bench.measure.machine import machine
from dashdeploy.bench.measure.quality import class_labels
from dashdeploy.data import load_dataset
from dashdeploy.diffusion.sampling import generate, plan
from dashdeploy.export.checks import gate, trajectories
from dashdeploy.export.graph import onnx_file, sampler_graph
from dashdeploy.export.int8 import quantize
from dashdeploy.metrics import frechet, reference
from dashdeploy.metrics.features import committed
from dashdeploy.recipe.schema import Recipe
from dashdeploy.runtime.onnxruntime_model import open_guided
from dashdeploy.target import GateLimits

SCALES = (1.0, 2.0, 4.0)
LEFT_IN_FLOAT = (0, 1, 2, 4, 8, 12, 16, 20)
NUM_IMAGES, BATCH, REPEATS = 1000, 64, 7


def profile(path: Path, work: Path, threads: int, shape: tuple[int, ...]) -> dict[str, float]:
    """Milliseconds of one guided step at batch 64 by operator, the nine largest."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.enable_profiling = threads, True
    options.profile_file_prefix, options.log_severity_level = str(work / "profile"), 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).standard_normal((BATCH, *shape)).astype(np.float32)
    t = np.full(BATCH, 500)
    runs = 30
    for _ in range(runs):
        session.run(None, {"x": x, "t": t, "y": np.arange(BATCH) % 10, "w": np.full(BATCH, 2, np.float32)})
    total: dict[str, float] = defaultdict(float)
    for event in json.loads(Path(session.end_profiling()).read_text()):
        if event.get("cat") == "Node" and event["name"].endswith("kernel_time"):
            total[event["args"]["op_name"]] += event["dur"] / runs / 1e3
    return {k: round(v, 3) for k, v in sorted(total.items(), key=lambda item: -item[1])[:9]}


def one_sided(calibrated: quantize.Calibrated, layers: list[str], *, weights: bool) -> onnx.ModelProto:
    """Only the weights, or only the activations, in 8 bits; the other side in 16, which rounds next to nothing."""
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
    from onnxruntime.quantization.quant_utils import load_model_with_shape_infer

    kinds = (QuantType.QInt8, QuantType.QUInt16) if weights else (QuantType.QInt16, QuantType.QUInt8)
    nodes = [calibrated.layers[layer] for layer in layers]
    options = {"UseQDQContribOps": True, "QuantizeBias": False}
    model = load_model_with_shape_infer(calibrated.graph)
    quantizer = QDQQuantizer(model, True, False, *kinds, calibrated.ranges, nodes, [], ["Conv"], options)
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    return quantizer.model.model


def main(folder: Path) -> None:
    recipe = Recipe.model_validate(stages.read_stage(folder / "student").manifest["recipe"])
    threads = torch.get_num_threads()
    denoiser = networks.load(str(folder))
    interface, sampling = denoiser.interface, recipe.sampling
    steps = plan(sampling, interface.schedule.num_train_timesteps)
    train, _ = load_dataset(recipe.data).split(recipe.data.holdout)
    extractor = committed(recipe.data.name)
    statistics = reference.of_images(train, extractor).statistics
    labels = class_labels(NUM_IMAGES, train)
    draws = [trajectories.draw(denoiser, sampling, num_images=32, num_points=10, seed=seed) for seed in (1, 2)]
    judged = gate.prepare(denoiser, draws[1], GateLimits(), scale=sampling.guidance)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        calibrated = {}
        for name in ("guided", "step"):
            path = networks.export(
                denoiser, name, work / f"{name}.onnx", precision="fp32", opset=20, group_norm="instance"
            )
            reader = quantize.Reader(draws[0], SIGNATURES[name][0], null_class=interface.null_class, scale=2.0)
            calibrated[name] = quantize.calibrate(path, work, reader, method="minmax")
        layers = [layer for layer in calibrated["guided"].layers if layer not in quantize.ALWAYS_FLOAT]

        def gap_of(model: onnx.ModelProto, name: str) -> tuple[Path, gate.Rung]:
            path = onnx_file.save(model, work / f"{name}.onnx", metadata={}, single_file_mb=2000)
            return path, judged.judge(open_guided(path, interface, threads=threads), name)

        causes = {
            "weights in int8, activations in 16 bits": one_sided(calibrated["guided"], layers, weights=True),
            "activations in uint8, weights in 16 bits": one_sided(calibrated["guided"], layers, weights=False),
        }
        sources = {what: gap_of(model, "cause")[1].overall.relative_error for what, model in causes.items()}
        damage = {}
        for layer in layers:
            model = quantize.quantize(calibrated["guided"], layers=[layer], symmetric=False)
            damage[layer] = gap_of(model, "one")[1].overall.relative_error
        worst = sorted(layers, key=lambda layer: -damage[layer])
        calls = {}
        noise = torch.randn((BATCH, *interface.image_shape), generator=torch.Generator().manual_seed(0))
        profiles = {"float32": profile(work / "guided.onnx", work, threads, interface.image_shape)}
        for count in (None, *LEFT_IN_FLOAT):
            chosen = [] if count is None else [layer for layer in layers if layer not in worst[:count]]
            title = "float32" if count is None else f"int8, {count} more in float"
            row: dict[str, Any] = {"what": title, "int8_layers": len(chosen)}
            step = onnx.load(work / "step.onnx")
            if count is not None:
                step = quantize.quantize(calibrated["step"], layers=chosen, symmetric=False)
                model = quantize.quantize(calibrated["guided"], layers=chosen, symmetric=False)
                path, rung = gap_of(model, f"guided-{count}")
                if count == 0:
                    profiles["int8"] = profile(path, work, threads, interface.image_shape)
                row |= {"gap_error": rung.overall.relative_error, "gap_cosine": rung.overall.energy_cosine}
            path = onnx_file.save(
                sampler_graph.assemble(step, steps.timesteps, form="loop"),
                work / f"sampler-{count}.onnx",
                metadata={},
                single_file_mb=2000,
            )
            sampler = networks.cpu_sampler(path, interface, steps, threads=threads)
            for w in SCALES:
                images = generate(
                    sampler,
                    interface,
                    plan(sampling, interface.schedule.num_train_timesteps, scale=w),
                    labels=labels,
                    seed=0,
                    batch_size=128,
                )
                features, _ = extractor(images)
                row[f"fid_w{w:g}"] = frechet.fid(
                    [features], statistics, resamples=0, seed=0, strata=labels.numpy()
                ).value
            calls[title] = lambda sampler=sampler: sampler(noise, labels[:BATCH], steps)
            rows.append(row)
            print(row)
        for call in calls.values():
            call()
        times = {title: median_ms(values) for title, values in interleave(calls, repeats=REPEATS, warm=False).items()}
        for row in rows:
            row |= times[row["what"]]
            row["float32_over_this"] = times["float32"]["median_ms"] / row["median_ms"]
    result = {
        "run": folder.name,
        "num_images": NUM_IMAGES,
        "threads": threads,
        "batch_size": BATCH,
        "always_float": list(quantize.ALWAYS_FLOAT),
        "gap_error_by_cause": sources,
        "gap_error_of_one_layer": {layer: damage[layer] for layer in worst},
        "step_ms_by_operator": profiles,
        "rows": rows,
        "machine": machine(),
        "versions": stages.versions(),
        "seed": 0,
    }
    path = Path(__file__).parent / "results" / "int8-tradeoff.json"
    path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
