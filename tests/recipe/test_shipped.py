"""The recipes that ship: they validate, plan, and hold what they promise."""

from __future__ import annotations

import pytest

from dashdeploy import locate
from dashdeploy.data import DATASETS
from dashdeploy.recipe.load import load_recipe, load_text, resolved_yaml
from dashdeploy.recipe.schema import Data, Recipe
from dashdeploy.students.architecture import StudentPlan, design
from dashdeploy.teachers.unet2d import unet_config
from dashdeploy.training.objectives import OBJECTIVES

SHAPES = {"digits": (1, 8, 8), "fashion_mnist": (1, 28, 28), "cifar10": (3, 32, 32), "cifar100": (3, 32, 32)}


def planned(name: str) -> tuple[Recipe, StudentPlan]:
    recipe = load_recipe(name)
    assert recipe.teach is not None
    c, h, _ = SHAPES[recipe.data.name]
    size = recipe.data.image_size or h
    classes = 100 if recipe.data.name == "cifar100" else 10
    teacher = unet_config(recipe.teach.architecture, image_shape=(c, size, size), num_classes=classes)
    return recipe, design(recipe.student, teacher)


@pytest.mark.parametrize(
    ("name", "teacher", "student"),
    [("cifar10-paper", 35_751_939, 6_082_627), ("cifar100-paper", 35_798_019, 6_105_667)],
)
def test_the_paper_recipes_have_the_papers_parameter_counts(name: str, teacher: int, student: int) -> None:
    _, plan = planned(name)
    assert (plan.teacher_parameters, plan.parameters) == (teacher, student)


@pytest.mark.parametrize("name", sorted(locate.available("recipes")))
def test_every_recipe_plans_a_student_of_at_least_the_papers_compression_and_round_trips(name: str) -> None:
    recipe, plan = planned(name)
    assert plan.compression > 5.86
    assert load_text(resolved_yaml(recipe), name=name) == recipe


@pytest.mark.parametrize("name", sorted(locate.available("recipes")))
def test_every_recipe_begins_with_its_command_and_its_result(name: str) -> None:
    lines = locate.available("recipes")[name].read_text().splitlines()
    assert lines[0].startswith(f"# dashdeploy run {name}")
    assert lines[1].startswith("# ")
    assert load_recipe(name).name == name


@pytest.mark.parametrize(("suffix", "kind"), [("-scratch", "scratch"), ("-cond-only", "cond_only")])
def test_the_baselines_differ_from_digits_in_their_objective_alone(suffix: str, kind: str) -> None:
    ours, theirs = load_recipe("digits"), load_recipe(f"digits{suffix}")
    assert theirs.distill.objective.kind == kind
    changed = {"name": ours.name, "export": ours.export, "distill": ours.distill}
    assert theirs.model_copy(update=changed) == ours
    same = {"objective": ours.distill.objective, "teacher_bank": ours.distill.teacher_bank}
    assert theirs.distill.model_copy(update=same) == ours.distill


def test_the_full_recipe_has_the_same_teacher_and_is_trained_longer() -> None:
    quick, full = load_recipe("digits"), load_recipe("digits-full")
    assert (full.teach, full.teacher, full.data) == (quick.teach, quick.teacher, quick.data)
    assert full.distill.steps >= 3 * quick.distill.steps


def test_the_schemas_names_are_those_that_are_registered() -> None:
    assert set(Data.model_json_schema()["properties"]["name"]["enum"]) == set(DATASETS)
    kinds = Recipe.model_json_schema()["$defs"]["Distill"]["properties"]["objective"]["discriminator"]["mapping"]
    assert set(kinds) == set(OBJECTIVES)
