"""What dit-xl-imagenet256 costs, from operations and bytes: python benchmarks/dit_xl_cost.py

Operations of one forward are counted by torch over DiT-XL/2 and over the student that the recipe comes to; a training
step is a forward and a backward of twice its operations. Hours assume a share of a device's peak; memory is of weights,
gradients, AdamW's state and the average, without activations. All of it is an estimate: the recipe was never run.
Writes benchmarks/results/dit-xl-cost.json.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from dashdeploy.recipe.load import load_recipe
from dashdeploy.students.architecture import design
from dashdeploy.teachers import networks

DIT_XL: dict[str, Any] = {
    "_class_name": networks.DIT,
    "num_attention_heads": 16,
    "attention_head_dim": 72,
    "num_layers": 28,
    "in_channels": 4,
    "out_channels": 8,
    "patch_size": 2,
    "sample_size": 32,
    "num_embeds_ada_norm": 1000,
}
"""facebook/DiT-XL-2-256, as its transformer/config.json has it."""
DEVICES = {"A100": 312.0, "H100": 989.0}
"""Dense bf16 peak, TFLOP/s."""
SHARE = 0.35
"""Of the peak, that a transformer of this width is taken to reach."""
BYTES = networks.TRAINING_BYTES


def forward_flop(config: dict[str, Any]) -> int:
    """Floating-point operations of one image's forward (a multiply-add is two)."""
    with torch.device("meta"):
        network = networks.build(networks.arguments(config), network=networks.DIT)
        size = config["sample_size"]
        x, t = torch.empty(1, config["in_channels"], size, size), torch.zeros(1, dtype=torch.int64)
        with FlopCounterMode(display=False) as counter:
            network(x, t, t)
    return int(counter.get_total_flops())


def main() -> None:
    recipe = load_recipe("dit-xl-imagenet256", overrides=["data.vae=null"])
    student = design(recipe.student, DIT_XL)
    flop = {"teacher": forward_flop(DIT_XL), "student": forward_flop(student.config)}
    parameters = {"teacher": student.teacher_parameters, "student": student.parameters}
    seen = recipe.distill.steps * recipe.distill.batch_size
    drawn = recipe.bench.quality.num_images * len(recipe.bench.quality.guidance)
    forwards = 2 * recipe.sampling.num_inference_steps * drawn
    work = {
        # Both branches of the teacher forward, of the student forward and backward.
        "distill": 2 * seen * flop["teacher"] + 6 * seen * flop["student"],
        "bench": forwards * (flop["teacher"] + flop["student"]),
    }
    result = {
        "recipe": recipe.name,
        "parameters": parameters,
        "forward_flop": flop,
        "images_seen": seen,
        "images_drawn_of_each_model": drawn,
        "share_of_peak": SHARE,
        "flop": work,
        "hours": {
            name: {stage: total / (peak * 1e12 * SHARE) / 3600 for stage, total in work.items()}
            for name, peak in DEVICES.items()
        },
        "memory_gib": {
            "student, its gradients, AdamW and average": parameters["student"] * BYTES / 2**30,
            "teacher in float32": parameters["teacher"] * 4 / 2**30,
        },
    }
    path = Path(__file__).parent / "results" / "dit-xl-cost.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
