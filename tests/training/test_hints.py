"""FitNets: both models' middle features by branch, and an adapter that trains and does not stay in the student."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import UNet2DModel

from dashdeploy.data import load_dataset
from dashdeploy.recipe import objectives as sections
from dashdeploy.recipe.load import load_text
from dashdeploy.run import open_run
from dashdeploy.teachers import formats
from dashdeploy.training.batches import FreshDraws
from dashdeploy.training.distill import distill
from dashdeploy.training.hints import FitNets, middle_features


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
    objective = FitNets(teacher, teacher, sections.FitNets())
    with torch.no_grad():
        objective.adapter.weight.copy_(torch.eye(16).view(16, 16, 1, 1))
        objective.adapter.bias.zero_()
    terms = objective(teacher, batch)
    assert float(terms["hint"].value.detach().max()) < 1e-8
    (1 + terms["hint"].value).log().sum().backward()
    assert objective.adapter.weight.grad is not None


def test_a_student_trained_with_hints_is_a_plain_model(tiny_text: str, tiny_run: Path, tmp_path: Path) -> None:
    overrides = ["distill.objective={kind: fitnets}", "distill.steps=2", "distill.warmup_steps=1"]
    recipe = load_text(tiny_text, name="tiny", overrides=overrides)
    folder = open_run(tmp_path, "tiny")
    (folder / "teacher").symlink_to(tiny_run / "teacher")
    student = distill(recipe, folder)
    UNet2DModel.from_pretrained(student.folder / "unet")
    assert {"imitation", "hint", "anchor"} <= student.figures.keys()
