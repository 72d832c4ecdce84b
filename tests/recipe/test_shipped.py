"""The recipes that ship: they validate, plan, and hold what they promise."""

from __future__ import annotations

import pytest

from dashdeploy import locate
from dashdeploy.lazy import resolve
from dashdeploy.objectives import OBJECTIVES
from dashdeploy.recipe.comparison import is_comparison, load_comparison, recipe_of
from dashdeploy.recipe.datasets import DATASETS
from dashdeploy.recipe.load import load_recipe, load_text, resolved_yaml
from dashdeploy.recipe.schema import Dash, Data, Recipe, Tag, TimestepWeights
from dashdeploy.students.architecture import StudentDesign, design
from dashdeploy.target import load_target
from dashdeploy.teachers import untrained

RECIPES = [name for name, path in locate.available("recipes").items() if not is_comparison(path)]
COMPARISONS = sorted(set(locate.available("recipes")) - set(RECIPES))
SHAPES = {"digits": (1, 8, 8), "fashion_mnist": (1, 28, 28), "cifar10": (3, 32, 32), "cifar100": (3, 32, 32)}


LATENTS = {"fashion-mnist-latent": (4, 8, 8)}
DIT_XL = {
    **{"_class_name": "DiTTransformer2DModel", "num_attention_heads": 16, "attention_head_dim": 72, "num_layers": 28},
    **{"in_channels": 4, "out_channels": 8, "patch_size": 2, "sample_size": 32, "num_embeds_ada_norm": 1000},
}
"""transformer/config.json of facebook/DiT-XL-2-256."""
LEAST = {"fashion-mnist-latent": 5.0, "dit-xl-imagenet256": 5.0}
"""Compression, where it is not the paper's."""


def planned(name: str) -> tuple[Recipe, StudentDesign]:
    recipe = load_recipe(name)
    if recipe.teach is None:
        return recipe, design(recipe.student, DIT_XL)
    c, h, _ = SHAPES[recipe.data.name]
    size = recipe.data.image_size or h
    classes = 100 if recipe.data.name == "cifar100" else 10
    shape = LATENTS.get(name, (c, size, size))
    teacher = untrained.config_of(recipe.teach, image_shape=shape, num_classes=classes)
    return recipe, design(recipe.student, teacher)


@pytest.mark.parametrize(
    ("name", "teacher", "student"),
    [("cifar10-paper", 35_751_939, 6_082_627), ("cifar100-paper", 35_798_019, 6_105_667)],
)
def test_the_paper_recipes_have_the_papers_parameter_counts(name: str, teacher: int, student: int) -> None:
    _, plan = planned(name)
    assert (plan.teacher_parameters, plan.parameters) == (teacher, student)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_plans_a_student_of_at_least_the_papers_compression_and_round_trips(name: str) -> None:
    recipe, plan = planned(name)
    assert plan.compression > LEAST.get(name, 5.86)
    assert load_text(resolved_yaml(recipe), name=name) == recipe


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_begins_with_its_command_and_its_result(name: str) -> None:
    lines = locate.available("recipes")[name].read_text().splitlines()
    assert lines[0].startswith(f"# dashdeploy run {name}")
    assert lines[1].startswith("# ")
    assert load_recipe(name).name == name


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_exported_to_targets_that_ship(name: str) -> None:
    assert [load_target(target).name for target in load_recipe(name).export] == list(load_recipe(name).export)


@pytest.mark.parametrize("name", ["cifar10-paper", "cifar100-paper"])
def test_the_paper_recipes_have_the_papers_hyperparameters(name: str) -> None:
    recipe = load_recipe(name)
    teach, distill, noise = recipe.teach, recipe.distill, recipe.noise_schedule
    assert teach is not None and noise is not None
    assert (teach.steps, teach.batch_size, teach.learning_rate, teach.ema_decay) == (391_000, 64, 2e-4, 0.9999)
    assert (distill.steps, distill.batch_size, distill.learning_rate, distill.ema_decay) == (234_000, 64, 1e-4, 0.999)
    assert (teach.label_dropout, recipe.data.holdout, recipe.data.horizontal_flip) == (0.1, 0.1, False)
    assert (noise.kind, noise.beta_start, noise.beta_end, noise.num_train_timesteps) == ("cosine", 1e-4, 0.9999, 1000)
    for stage in (teach, distill):
        assert (stage.gradient_clip, stage.lr_schedule, stage.warmup_steps) == (1.0, "cosine", 0)
        assert stage.timestep_weights == TimestepWeights(kind="tirt", gamma=5.0)
    assert distill.objective == Dash(imitation=1.0, unconditional=1.0, anchor=0.1)
    assert (recipe.sampling.num_inference_steps, recipe.sampling.guidance) == (50, Tag(w_min=1, w_max=4, beta=5))
    assert (recipe.bench.quality.features, recipe.bench.quality.num_images) == ("inception", 50_000)


def test_the_two_paper_recipes_differ_in_their_data_alone() -> None:
    ten, hundred = load_recipe("cifar10-paper"), load_recipe("cifar100-paper")
    assert hundred.model_copy(update={"name": ten.name, "data": ten.data}) == ten
    assert hundred.data.model_copy(update={"name": "cifar10"}) == ten.data


@pytest.mark.parametrize(("suffix", "kind"), [("-scratch", "scratch"), ("-cond-only", "cond_only")])
def test_the_baselines_differ_from_digits_in_their_objective_alone(suffix: str, kind: str) -> None:
    ours, theirs = load_recipe("digits"), load_recipe(f"digits{suffix}")
    assert theirs.distill.objective.kind == kind
    changed = {"name": ours.name, "export": ours.export, "distill": ours.distill}
    assert theirs.model_copy(update=changed) == ours
    same = {"objective": ours.distill.objective, "teacher_bank": ours.distill.teacher_bank}
    assert theirs.distill.model_copy(update=same) == ours.distill


def test_offshoot_is_digits_with_what_its_comparison_found() -> None:
    ours, theirs = load_recipe("digits"), load_recipe("digits-offshoot")
    assert theirs.model_copy(update={k: getattr(ours, k) for k in ("name", "student", "distill")}) == ours
    assert theirs.student.model_copy(update={"init": ours.student.init}) == ours.student
    added = ("objective", "ema_decay", "timestep_weights")
    assert theirs.distill.model_copy(update={k: getattr(ours.distill, k) for k in added}) == ours.distill
    compared = recipe_of(load_comparison("ablation-improvements"), "offshoot", 0)
    assert theirs.student == compared.student
    assert [getattr(theirs.distill, k) for k in added] == [getattr(compared.distill, k) for k in added]


def test_the_full_recipe_has_the_same_teacher_and_is_trained_longer() -> None:
    quick, full = load_recipe("digits"), load_recipe("digits-full")
    assert (full.teach, full.teacher, full.data) == (quick.teach, quick.teacher, quick.data)
    assert full.distill.steps >= 3 * quick.distill.steps


def test_the_schemas_names_are_those_that_are_registered() -> None:
    assert Data.model_json_schema()["properties"]["name"]["enum"] == list(DATASETS)
    for name in DATASETS:
        assert callable(resolve("dataset", DATASETS, name, package="dashdeploy.data"))
    kinds = Recipe.model_json_schema()["$defs"]["Distill"]["properties"]["objective"]["discriminator"]["mapping"]
    assert set(kinds) == set(OBJECTIVES)


@pytest.mark.parametrize("name", COMPARISONS)
def test_every_comparison_is_valid_and_named_after_its_file(name: str) -> None:
    assert load_comparison(name).name == name
