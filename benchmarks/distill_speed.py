"""What a distillation step costs beside its arithmetic: python benchmarks/distill_speed.py [RECIPE]

Times, in turns in one process: (a) the teacher's forward over 2B, (b) the student's forward and backward
over 2B, (c) the whole training step of the recipe with a live teacher: draws, noise, (a), (b), clipping,
optimizer, EMA, logging figures. Writes benchmarks/results/distill-speed-<recipe>.json with the medians and
the ratio c / (a + b).
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import torch

from dashdeploy import run
from dashdeploy.bench.latency import interleave
from dashdeploy.bench.machine import machine
from dashdeploy.data import load_dataset
from dashdeploy.locate import find
from dashdeploy.recipe.load import load_recipe
from dashdeploy.students.architecture import design
from dashdeploy.teachers import choose
from dashdeploy.training.distill import live_source, student_step
from dashdeploy.training.loop import TrainingRun, make_accelerator
from dashdeploy.training.timestep_weights import transfer

REPEATS = 40


def main(name: str) -> None:
    recipe = load_recipe(name, overrides=["distill.teacher_bank=0"])
    data = load_dataset(recipe.data)
    folder = choose.find(recipe, Path("nowhere"), base=find("recipes", name).parent)
    assert folder is not None
    teacher = choose.open_teacher(folder, recipe, data).denoiser
    student = design(recipe.student, dict(teacher.unet.config))
    weights = transfer(recipe.distill.timestep_weights, teacher.interface.schedule, folder)
    step = student_step(recipe, student, teacher, weights, data)
    source = live_source(recipe, data, teacher)
    with tempfile.TemporaryDirectory() as work:
        accelerator = make_accelerator(recipe.distill)
        training = TrainingRun(step, source, recipe.distill, accelerator, Path(work), "key", recipe.seed)
        batch = source.complete(source.draw(0))
        steps = iter(range(10_000))

        def teacher_forward() -> None:
            with torch.no_grad():
                teacher.branches(batch.x_t, batch.t, batch.y)

        def student_both_ways() -> None:
            step(batch, batch.t).total.backward()
            step.zero_grad(set_to_none=True)

        calls = {
            "teacher_forward": teacher_forward,
            "student_forward_backward": student_both_ways,
            "training_step": lambda: training.step(next(steps)),
        }
        interleave(calls, repeats=5)
        times = interleave(calls, repeats=REPEATS)
    medians = {k: sorted(v)[len(v) // 2] * 1e3 for k, v in times.items()}
    parts = medians["teacher_forward"] + medians["student_forward_backward"]
    result = {
        "recipe": recipe.name,
        "batch_size": recipe.distill.batch_size,
        "student_parameters": student.parameters,
        "teacher_parameters": student.teacher_parameters,
        "repeats": REPEATS,
        "median_ms": medians,
        "ratio": medians["training_step"] / parts,
        "images_per_s": recipe.distill.batch_size / medians["training_step"] * 1e3,
        "threads": torch.get_num_threads(),
        "machine": machine(),
        "versions": run.versions(),
    }
    path = Path(__file__).parent / "results" / f"distill-speed-{recipe.name}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({k: result[k] for k in ("median_ms", "ratio", "images_per_s")}, indent=1))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "digits")
