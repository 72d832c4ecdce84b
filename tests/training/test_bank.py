from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dashdeploy.data import load_dataset
from dashdeploy.diffusion import guided_targets
from dashdeploy.errors import UserError
from dashdeploy.recipe.load import load_text
from dashdeploy.stages import open_run
from dashdeploy.teachers import unet2d
from dashdeploy.training import bank, distill
from dashdeploy.training.batches import FreshDraws
from dashdeploy.training.student import live_source
from tests.made import CONSISTENCY, GUIDED, SEGMENTS, save_teacher, taught_by


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


def test_students_of_one_branch_share_a_bank_if_their_targets_are_the_same(tiny_text: str, tmp_path: Path) -> None:
    folder = save_teacher(tmp_path / "teacher", "v_prediction")

    def banks(name: str, *overrides: str) -> int:
        settings = [*taught_by(folder), "distill.teacher_bank=32", *overrides]
        recipe = load_text(tiny_text, name="t", overrides=settings)
        distill.distill(recipe, open_run(tmp_path, name), banks=tmp_path / "banks")
        return len(list((tmp_path / "banks").glob("*.safetensors")))

    assert banks("a", *SEGMENTS) == 1
    assert banks("b", *SEGMENTS, "distill.learning_rate=1e-3", "sampling.num_inference_steps=2") == 1
    others = ("teacher_steps=3", "steps=[4]", "w_max=5.0")
    for count, change in enumerate(others, start=2):
        assert banks(change[0] + str(count), *SEGMENTS, f"distill.objective.{change}") == count
    assert banks("x", *SEGMENTS, "student.prediction_type=sample") == 5
    assert banks("g", *GUIDED) == 6
    assert banks("two") == 7
    assert banks("c", *CONSISTENCY) == 8
    assert banks("d", *CONSISTENCY, "distill.objective.skip=5") == 9


def test_a_bank_of_one_branch_holds_the_scales_and_the_targets_for_them(tiny_text: str, tmp_path: Path) -> None:
    folder = save_teacher(tmp_path / "teacher", "v_prediction")
    recipe = load_text(tiny_text, name="t", overrides=[*taught_by(folder), *GUIDED])
    teacher = unet2d.load(folder)
    source = live_source(recipe, load_dataset(recipe.data), teacher)
    made = bank.build_bank(source, num_draws=40, device=torch.device("cpu"))
    assert bank.tensors(made).keys() == {"x_t", "t", "y", "target", "uniform", "w"}
    torch.testing.assert_close(made.w, 1 + 3 * made.uniform)
    expected = guided_targets.target(
        *(teacher, made.x_t, made.t, None, made.y, made.w), steps=0, clip=True, prediction="v_prediction"
    )
    torch.testing.assert_close(made.target, expected, rtol=1e-4, atol=1e-5)
    bank.save_bank(made, tmp_path / "bank.safetensors", key="k")
    again = bank.load_bank(tmp_path / "bank.safetensors", key="k")
    assert all(torch.equal(values, getattr(made, name)) for name, values in bank.tensors(again).items())
    assert bank.tensors(again).keys() == bank.tensors(made).keys()


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
