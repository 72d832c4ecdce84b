"""FitNets: both models' middle features by branch, and an adapter that trains and does not stay in the student."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DModel

from dashdeploy.data import load_dataset
from dashdeploy.errors import UserError
from dashdeploy.objectives.fitnets import FitNets
from dashdeploy.recipe.load import load_text
from dashdeploy.stages import open_run
from dashdeploy.teachers import formats
from dashdeploy.training.bank import bank_bytes, build_bank, tensors
from dashdeploy.training.batches import FreshDraws
from dashdeploy.training.distill import distill
from dashdeploy.training.hints import Hints, middle_features


@pytest.fixture
def teacher(tiny_run: Path):
    return formats.load(tiny_run / "teacher", role="teacher")


def test_a_draw_holds_the_teacher_s_features_by_branch(teacher, tiny_recipe) -> None:
    data = load_dataset(tiny_recipe.data)
    source = FreshDraws(
        data, teacher.interface.schedule, batch_size=5, seed=0, teacher=teacher, features=middle_features
    )
    batch = source.complete(source.draw(0))
    assert batch.teacher_features.shape == (5, 2, 16, 4, 4)
    with middle_features(teacher) as found, torch.no_grad():
        null = torch.full_like(batch.y, teacher.interface.null_class)
        for labels in (null, batch.y):
            teacher(batch.x_t, batch.t, labels)
    for branch in range(2):
        torch.testing.assert_close(batch.teacher_features[:, branch], found[branch], rtol=1e-4, atol=1e-5)


def test_the_hint_is_zero_for_the_teacher_itself_and_trains_the_adapter(teacher, tiny_recipe) -> None:
    data = load_dataset(tiny_recipe.data)
    source = FreshDraws(
        data, teacher.interface.schedule, batch_size=4, seed=0, teacher=teacher, features=middle_features
    )
    batch = source.complete(source.draw(0))
    fitnets = FitNets().terms
    objective = Hints(teacher, teacher, fitnets, weight=1.0)
    with torch.no_grad():
        objective.adapter.weight.copy_(torch.eye(16).view(16, 16, 1, 1))
        objective.adapter.bias.zero_()
    terms = objective(teacher, batch)
    assert float(terms["hint"].value.detach().max()) < 1e-8
    (1 + terms["hint"].value).log().sum().backward()
    assert objective.adapter.weight.grad is not None


def test_a_bank_holds_the_features_in_half_precision(teacher, tiny_recipe) -> None:
    data = load_dataset(tiny_recipe.data)
    source = FreshDraws(
        data, teacher.interface.schedule, batch_size=6, seed=0, teacher=teacher, features=middle_features
    )
    bank = build_bank(source, num_draws=6, device=torch.device("cpu"))
    live = source.complete(source.draw(0))
    assert bank.teacher_features is not None and bank.teacher_features.dtype == torch.float16
    torch.testing.assert_close(bank.teacher_features.float(), live.teacher_features, rtol=1e-3, atol=1e-4)
    held = tensors(bank)
    one_branch = {"w", "s", "trains_student"}
    assert held.keys() == {field.name for field in fields(bank)} - one_branch
    assert bank_bytes(6, source, torch.device("cpu")) == sum(x.numel() * x.element_size() for x in held.values())


@pytest.mark.parametrize("objective", ["{kind: fitnets}", "{kind: dash, hint: 0.5}"])
@pytest.mark.parametrize("bank", [0, 24])
def test_a_student_trained_with_hints_is_a_plain_model(
    tiny_text: str, tiny_run: Path, tmp_path: Path, objective: str, bank: int
) -> None:
    overrides = [f"distill.objective={objective}", "distill.steps=2", "distill.warmup_steps=1"]
    overrides.append(f"distill.teacher_bank={bank}")
    recipe = load_text(tiny_text, name="tiny", overrides=overrides)
    folder = open_run(tmp_path, "tiny")
    (folder / "teacher").symlink_to(tiny_run / "teacher")
    student = distill(recipe, folder)
    UNet2DModel.from_pretrained(student.folder / "unet")
    assert {"imitation", "hint", "anchor"} <= student.figures.keys()


def test_features_past_float16_are_not_kept_in_a_bank(teacher, tiny_recipe) -> None:
    data = load_dataset(tiny_recipe.data)
    with torch.no_grad():
        teacher.unet.mid_block.resnets[-1].conv2.bias.fill_(1e6)
    source = FreshDraws(
        data, teacher.interface.schedule, batch_size=16, seed=0, teacher=teacher, features=middle_features
    )
    with pytest.raises(UserError, match=r"exceed what float16 holds.*teacher_bank to 0"):
        build_bank(source, num_draws=16, device=torch.device("cpu"))
