"""What the paper's CIFAR-10 recipe costs, from operations: python benchmarks/paper_cost.py

Operations of one forward are counted by torch over the recipe's own networks; a training step is a forward and a
backward of twice its operations. Hours take the rate at which the paper's authors sampled with these networks on a T4
(their table: milliseconds for 64 images at 50 guided steps), or a share of a device's peak. All of it is an estimate.
Writes benchmarks/results/paper-cost.json.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from dashdeploy.diffusion.sampling import plan
from dashdeploy.recipe.load import load_recipe
from dashdeploy.recipe.schema import NoiseSchedule
from dashdeploy.students.architecture import design
from dashdeploy.teachers.networks import create
from dashdeploy.teachers.unet2d import unet_config

IMAGE, CLASSES = (3, 32, 32), 10
T4_MS = {"teacher": 14_217.0, "student": 3_926.0}
"""arXiv:2606.00798: 64 images, 50 guided steps."""
T4_BATCH, T4_STEPS = 64, 50
A100_TFLOPS, A100_SHARE = 156.0, 0.2
"""Dense TF32 peak, and the share of it that small convolutions are taken to reach."""


def forward_flop(config: dict[str, Any]) -> int:
    """Floating-point operations of one image's forward (a multiply-add is two)."""
    with torch.device("meta"):
        network, x, t = create(config), torch.empty(1, *IMAGE), torch.zeros(1, dtype=torch.int64)
        with FlopCounterMode(display=False) as counter:
            network(x, t, t)
    return int(counter.get_total_flops())


def main() -> None:
    recipe = load_recipe("cifar10-paper")
    assert recipe.teach is not None
    teacher = unet_config(recipe.teach.architecture, image_shape=IMAGE, num_classes=CLASSES)
    flop = {"teacher": forward_flop(teacher), "student": forward_flop(design(recipe.student, teacher).config)}
    rates = {k: 2 * T4_BATCH * T4_STEPS * flop[k] / T4_MS[k] * 1e3 for k in flop}  # FLOP/s on the T4
    # At w = 1 only the conditional branch runs.
    timesteps = (recipe.noise_schedule or NoiseSchedule()).num_train_timesteps
    plans = [plan(recipe.sampling, timesteps, scale=scale) for scale in recipe.bench.quality.guidance]
    forwards = [sum(1 if w == 1 else 2 for w in drawing.weights) for drawing in plans]
    taught, distilled = (s.steps * s.batch_size for s in (recipe.teach, recipe.distill))
    num_images = recipe.bench.quality.num_images
    work = {  # stage: images, operations of each network
        "teach": (taught, {"teacher": 3 * taught * flop["teacher"]}),
        "distill": (
            distilled,
            {"teacher": 2 * distilled * flop["teacher"], "student": 6 * distilled * flop["student"]},
        ),
        "bench": (2 * num_images * len(plans), {k: num_images * sum(forwards) * flop[k] for k in flop}),
    }
    rows: list[dict[str, Any]] = []
    for stage, (images, parts) in work.items():
        total = sum(parts.values())
        hours = {"T4": sum(v / rates[k] for k, v in parts.items()), "A100": total / (A100_TFLOPS * 1e12 * A100_SHARE)}
        rows.append({"stage": stage, "images": images, "flop": total, "hours": {k: v / 3600 for k, v in hours.items()}})
    sums: dict[str, float] = {key: sum(row[key] for row in rows) for key in ("images", "flop")}
    rows.append({"stage": "all", **sums, "hours": {k: sum(r["hours"][k] for r in rows) for k in ("T4", "A100")}})
    result = {
        "recipe": recipe.name,
        "forward_flop": flop,
        "devices": {
            "T4": {"why": "the rate of the paper's own sampling times"},
            "A100": {"why": f"{A100_SHARE:.0%} of its TF32 peak of {A100_TFLOPS:g} TFLOP/s is assumed"},
        },
        "rows": rows,
    }
    path = Path(__file__).parent / "results" / "paper-cost.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
