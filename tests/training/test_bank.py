from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dashdeploy.data import load_dataset
from dashdeploy.errors import UserError
from dashdeploy.stages import open_run
from dashdeploy.teachers import unet2d
from dashdeploy.training import bank, distill
from dashdeploy.training.batches import FreshDraws


def test_a_bank_holds_what_the_teacher_says(recipe_with, tiny_run: Path, tiny_recipe) -> None:
    teacher = unet2d.load(tiny_run / "teacher")
    source = FreshDraws(
        load_dataset(tiny_recipe.data), teacher.interface.schedule, batch_size=16, seed=0, teacher=teacher
    )
    made = bank.build_bank(source, num_draws=40, device=torch.device("cpu"))
    assert len(made.t) == 40
    with torch.no_grad():
        uncond, cond = teacher.branches(made.x_t, made.t, made.y)
    torch.testing.assert_close(made.teacher_uncond, uncond, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(made.teacher_cond, cond, rtol=1e-4, atol=1e-5)
    drawn = bank.TeacherBank(made, batch_size=16, seed=0)
    seen = torch.cat([drawn.draw(step).x_t for step in range(5)])[:80]
    assert len(torch.unique(seen.flatten(1), dim=0)) == 40


def test_a_bank_that_would_not_fit_is_refused(recipe_with, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"teacher_bank.*GiB"):
        distill.distill(recipe_with("distill.teacher_bank=1000000000"), open_run(tmp_path, "t"))


def test_students_of_one_teacher_share_its_bank(recipe_with, tmp_path: Path) -> None:
    def distilled(name: str, *overrides: str) -> str:
        recipe = recipe_with("distill.teacher_bank=32", *overrides)
        return distill.distill(recipe, open_run(tmp_path, name), banks=tmp_path / "banks").manifest["key"]

    students = {distilled("a"), distilled("b", "distill.objective.kind=cond_only")}
    assert len(students) == 2 and len(list((tmp_path / "banks").glob("*.safetensors"))) == 1
    for name, override in (
        ("c", "distill.objective.hint=1.0"),
        ("d", "data.horizontal_flip=true"),
        ("e", "distill.teacher_precision=bf16"),
    ):
        students.add(distilled(name, override))
    assert len(students) == 5 and len(list((tmp_path / "banks").glob("*.safetensors"))) == 4


def test_a_bank_with_a_flipped_bit_is_made_again(
    recipe_with, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    recipe = recipe_with("distill.teacher_bank=32")
    first = distill.distill(recipe, open_run(tmp_path, "a"), banks=tmp_path / "banks")
    (file,) = (tmp_path / "banks").glob("*.safetensors")
    whole = file.read_bytes()
    damaged = bytearray(whole)
    damaged[-5] ^= 1
    file.write_bytes(damaged)
    again = distill.distill(recipe, open_run(tmp_path, "b"), banks=tmp_path / "banks")
    assert f"{file}: damaged" in capfd.readouterr().err and file.read_bytes() == whole
    weights = "unet/diffusion_pytorch_model.safetensors"
    assert again.manifest["files"][weights] == first.manifest["files"][weights]
