"""Quality against latency, by solver, steps and guidance: python benchmarks/front.py RUN [options]

For one artifact of the run: DDIM and DPM-Solver++(2M) at 10, 20 and 50 steps, each at the recipe's w, at that w in
0.2–0.8 (whose steps without guidance run the cond graph), and with TAG. Each with FID and classifier accuracy from the
same noise; with the distance to the exact solution, for which only the solver answers (root mean square over
pixels in [−1, 1], to many steps of second order from the same noise), once more with the last step, to the clean image,
cut into small ones, because that step is of first order in every solver; and with the time of a batch, in turns. Writes
front-<recipe>.json, and the plot of it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from cpu_artifacts import median_ms
from front_plot import plot

from dashdeploy import stages
from dashdeploy.bench.measure import quality
from dashdeploy.bench.measure.latency import interleave
from dashdeploy.bench.measure.machine import machine
from dashdeploy.data import load_dataset
from dashdeploy.data.images import LabelledImages
from dashdeploy.diffusion import guidance
from dashdeploy.diffusion.sampling import Plan, initial_noise, plan
from dashdeploy.metrics import reference
from dashdeploy.metrics.features import committed
from dashdeploy.recipe.schema import Guidance, GuidanceInterval, Recipe, Sampling, Tag
from dashdeploy.runtime.model import Model
from dashdeploy.runtime.opening import open_path

STEPS = (10, 20, 50)
SEED = 0
EXACT_STEPS, EXACT_IMAGES = 200, 128
"""Of the second-order run that stands for the exact solution."""
HERE = Path(__file__).parent


def scales(recipe: Recipe) -> list[Guidance]:
    """The recipe's w (at T/2, where it changes over time), the same in an interval, and TAG."""
    w = guidance.weight(recipe.sampling.guidance, 0.5, 1)
    return [w, GuidanceInterval(w=w), Tag()]


def fine_end(coarse: Plan, fine: Plan) -> Plan:
    """`coarse` as far as its last timestep, and from there to the clean image in the steps of `fine`."""
    first = next((i for i, t in enumerate(fine.timesteps) if t < coarse.timesteps[-1]), len(fine.timesteps))
    steps = (*coarse.timesteps, *fine.timesteps[first:])
    weights = (*coarse.weights, *fine.weights[first:])
    return replace(coarse, timesteps=steps, weights=weights)


@dataclass(frozen=True)
class Variant:
    """One point of the front."""

    scale: Guidance
    sampling: Sampling
    plan: Plan


def variants(recipe: Recipe, num_train_timesteps: int, steps: tuple[int, ...]) -> list[Variant]:
    """Every guidance, solver and number of steps."""
    points = []
    for scale, solver, num_steps in itertools.product(scales(recipe), ("ddim", "dpmpp_2m"), steps):
        sampling = recipe.sampling.model_copy(update={"num_inference_steps": num_steps, "solver": solver})
        points.append(Variant(scale, sampling, plan(sampling, num_train_timesteps, scale=scale)))
    return points


def timed(model: Model, plans: list[Plan], y: torch.Tensor, *, repeats: int) -> list[dict[str, Any]]:
    """The graph that runs and the median time of a batch, by plan; the plans take turns."""
    batch_size = len(y)
    noise = initial_noise(SEED, 0, batch_size, model.denoiser.interface.image_shape)
    calls = {i: lambda steps=steps: model.sample(noise, y, steps) for i, steps in enumerate(plans)}
    for call in calls.values():
        call()
    times = interleave(calls, repeats=repeats, warm=False)
    return [{"graph": model.graph_for(steps, batch_size), **median_ms(times[i])} for i, steps in enumerate(plans)]


def judged(
    model: Model, recipe: Recipe, points: list[Variant], data: LabelledImages, labels: torch.Tensor
) -> list[dict[str, Any]]:
    """Quality and distance to the exact solution of each."""
    config = recipe.bench.quality
    extractor = committed(recipe.data.name)
    real = reference.of_images(data, extractor)
    interface = model.denoiser.interface
    y = labels[:EXACT_IMAGES]
    noise = initial_noise(SEED, 0, len(y), interface.image_shape)
    many = recipe.sampling.model_copy(update={"num_inference_steps": EXACT_STEPS, "solver": "dpmpp_2m"})
    exact: dict[str, tuple[Plan, torch.Tensor]] = {}
    rows = []
    for at in points:
        images = quality.sample(model, at.plan, config, labels=labels, seed=SEED)
        row, _ = quality.score("", at.scale, [images], labels, real, None, extractor, config, seeds=(SEED,))
        if row.guidance not in exact:
            fine = plan(many, interface.schedule.num_train_timesteps, scale=at.scale)
            exact[row.guidance] = fine, model.sample(noise, y, fine)
        fine, solution = exact[row.guidance]
        rows.append(
            {
                "guidance": row.guidance,
                "solver": at.plan.solver,
                "num_inference_steps": len(at.plan.timesteps),
                "cond_only_steps": at.plan.weights.count(1.0),
                "fid": row.fid.value,
                "fid_low": row.fid.low,
                "fid_high": row.fid.high,
                "accuracy": row.accuracy,
                "distance": rms(model.sample(noise, y, at.plan) - solution),
                "distance_fine_end": rms(model.sample(noise, y, fine_end(at.plan, fine)) - solution),
            }
        )
        print(rows[-1], file=sys.stderr)
    return rows


def rms(difference: torch.Tensor) -> float:
    """Root mean square."""
    return float(difference.square().mean().sqrt())


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run folder with artifacts, as in runs/digits")
    parser.add_argument("--artifact", default="onnx-cpu")
    parser.add_argument("--steps", type=int, nargs="+", default=STEPS)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder of the JSON file")
    parser.add_argument("--plots", type=Path, default=HERE.parent / "docs", help="folder of the SVG file")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    load = os.getloadavg()[0]
    stage = stages.read_stage(options.run / "artifacts" / options.artifact)
    recipe = Recipe.model_validate(stage.manifest["recipe"])
    with torch.inference_mode(), open_path(stage.folder, threads=options.threads) as model:
        points = variants(recipe, model.denoiser.interface.schedule.num_train_timesteps, tuple(options.steps))
        plans = [at.plan for at in points]
        train, _ = load_dataset(recipe.data).split(recipe.data.holdout)
        labels = quality.class_labels(options.images, train)
        times = timed(model, plans, quality.class_labels(options.batch, train), repeats=options.repeats)
        rows = judged(model, recipe, points, train, labels)
        label = model.label
    result = {
        "run": recipe.name,
        "artifact": options.artifact,
        "artifact_sha256": stage.sha256,
        "model": label,
        "num_images": options.images,
        "batch_size": options.batch,
        "threads": options.threads,
        "exact": {
            "solver": "dpmpp_2m",
            "num_inference_steps": EXACT_STEPS,
            "num_images": min(EXACT_IMAGES, options.images),
        },
        "rows": [row | time for row, time in zip(rows, times, strict=True)],
        "machine": {**machine(), "load_before": load},
        "versions": stages.versions(),
        "seed": SEED,
    }
    name = f"front-{recipe.name}"
    (options.results / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    (options.plots / f"{name}.svg").write_text(plot(result))
    print(options.results / f"{name}.json")


if __name__ == "__main__":
    main()
