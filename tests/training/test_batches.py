from __future__ import annotations

from pathlib import Path

import torch

from dashdeploy.data import load_dataset
from dashdeploy.teachers import unet2d
from dashdeploy.training.batches import FreshDraws


def test_the_teachers_own_precision_changes_its_outputs_by_rounding_alone(tiny_run: Path, tiny_recipe) -> None:
    teacher, data = unet2d.load(tiny_run / "teacher"), load_dataset(tiny_recipe.data)
    outputs = []
    for precision in ("fp32", "bf16"):
        source = FreshDraws(
            data, teacher.interface.schedule, batch_size=16, seed=0, teacher=teacher, precision=precision
        )
        outputs.append(torch.stack(source.complete(source.draw(0)).teacher_outputs()))
    exact, rounded = outputs
    assert rounded.dtype == torch.float32
    error = float((rounded - exact).norm() / exact.norm())
    assert 0 < error < 2**-6  # bf16 keeps 8 bits
