"""The precision that a recipe asks for is the one that layers compute in, or it is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from dashdeploy.errors import UserError
from dashdeploy.stages import open_run
from dashdeploy.training import distill


@pytest.fixture
def seen():
    """Types that convolutions gave, of networks that train and of those that do not."""
    found: dict[str, set[torch.dtype]] = {"student": set(), "teacher": set()}

    def note(module: nn.Module, inputs: object, output: object) -> None:
        if (
            isinstance(module, nn.Conv2d)
            and isinstance(output, torch.Tensor)
            and module.training == output.requires_grad
        ):
            found["student" if module.training else "teacher"].add(output.dtype)

    handle = nn.modules.module.register_module_forward_hook(note)
    yield found
    handle.remove()


@pytest.mark.parametrize(
    ("overrides", "student", "teacher"),
    [
        ([], torch.float32, torch.float32),
        (["distill.precision=bf16"], torch.bfloat16, torch.float32),
        (["distill.teacher_precision=bf16"], torch.float32, torch.bfloat16),
        (["distill.teacher_precision=fp16"], torch.float32, torch.float16),
    ],
)
def test_layers_compute_in_what_the_manifest_says(
    recipe_with, tmp_path: Path, seen, overrides: list[str], student: torch.dtype, teacher: torch.dtype
) -> None:
    recipe = recipe_with("distill.steps=2", "distill.warmup_steps=1", *overrides)
    distill.distill(recipe, open_run(tmp_path, "t"))
    assert seen["student"] == {student}
    assert teacher in seen["teacher"] and seen["teacher"] <= {teacher, torch.float32}


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU trains in fp16")
def test_fp16_on_a_cpu_is_refused_before_anything_is_done(recipe_with, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"precision fp16 does not work on a CPU.*Set it to bf16 or fp32"):
        distill.distill(recipe_with("distill.precision=fp16"), open_run(tmp_path, "t"))
    assert not (tmp_path / "t" / "student").exists()
