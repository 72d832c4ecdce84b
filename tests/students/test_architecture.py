from __future__ import annotations

import pytest
from pydantic import ValidationError

from dashdeploy.errors import UserError
from dashdeploy.recipe.schema import Architecture, DiT, Student
from dashdeploy.students.architecture import candidates, design, dit_candidates
from dashdeploy.teachers.dit import dit_config
from dashdeploy.teachers.networks import DIT, UNET, count_parameters, create, try_forward
from dashdeploy.teachers.unet2d import unet_config

SHAPE = {"image_shape": (1, 8, 8), "num_classes": 10}
PAPER = {"norm_num_groups": 32, "attention_levels": (1,)}
TEACHER = Architecture(block_out_channels=(128, 256, 256, 256), layers_per_block=2, **PAPER)
STUDENT = Architecture(block_out_channels=(64, 128, 128, 128), layers_per_block=1, **PAPER)


@pytest.mark.parametrize(("classes", "teacher", "student"), [(10, 35_751_939, 6_082_627), (100, 35_798_019, 6_105_667)])
def test_the_papers_architectures_have_the_papers_parameter_counts(classes: int, teacher: int, student: int) -> None:
    shape = (3, 32, 32)
    assert count_parameters(unet_config(TEACHER, image_shape=shape, num_classes=classes)) == teacher
    assert count_parameters(unet_config(STUDENT, image_shape=shape, num_classes=classes)) == student


@pytest.fixture(scope="module")
def paper_teacher() -> dict:
    return unet_config(TEACHER, image_shape=(3, 32, 32), num_classes=10)


def test_the_papers_student_is_found_from_its_ratio(paper_teacher: dict) -> None:
    plan = design(Student(compression=5.87), paper_teacher)
    assert plan.config["block_out_channels"] == [64, 128, 128, 128]
    assert plan.config["layers_per_block"] == 1
    assert plan.parameters == 6_082_627


@pytest.mark.parametrize("compression", [2.0, 5.9, 20.0])
def test_the_largest_candidate_below_the_budget_is_taken(paper_teacher: dict, compression: float) -> None:
    plan = design(Student(compression=compression), paper_teacher)
    budget = plan.teacher_parameters / compression
    assert plan.parameters <= budget
    counts = [count_parameters(c) for c in candidates(paper_teacher, layers_per_block=None)]
    assert plan.parameters == max(c for c in counts if c <= budget)
    assert len(plan.config["block_out_channels"]) == 4
    assert all(width % 32 == 0 for width in plan.config["block_out_channels"])


def test_blocks_a_level_can_be_fixed(paper_teacher: dict) -> None:
    assert design(Student(compression=3.0, layers_per_block=1), paper_teacher).config["layers_per_block"] == 1


def test_a_compression_that_no_student_reaches_is_refused_with_the_largest_that_is(paper_teacher: dict) -> None:
    with pytest.raises(UserError, match=r"at most 70\.7"):
        design(Student(compression=1000), paper_teacher)


def test_an_explicit_architecture_is_taken_as_it_is(paper_teacher: dict) -> None:
    assert design(Student(architecture=STUDENT), paper_teacher).parameters == 6_082_627


DIT_S = {
    **dit_config(
        DiT(num_layers=12, num_attention_heads=6, attention_head_dim=64), image_shape=(4, 32, 32), num_classes=1000
    ),
    "out_channels": 8,
    "_class_name": DIT,
}


@pytest.mark.parametrize("compression", [2.0, 5.0])
def test_a_dit_is_made_smaller_in_depth_and_width_with_its_head_size_kept(compression: float) -> None:
    plan = design(Student(compression=compression), DIT_S)
    assert plan.network == DIT
    assert plan.compression >= compression
    counts = [count_parameters(c, network=DIT) for c in dit_candidates(DIT_S | {"_class_name": None})]
    assert plan.parameters == max(c for c in counts if c <= plan.teacher_parameters / compression)
    assert plan.config["attention_head_dim"] == 64
    assert plan.config["num_layers"] >= 12 * plan.config["num_attention_heads"] // 6
    assert plan.config["out_channels"] == 4, "a student predicts no variance"
    assert plan.describe()["num_layers"] == plan.config["num_layers"]


def test_an_explicit_student_may_be_of_the_other_kind(paper_teacher: dict) -> None:
    plan = design(Student(dit=DiT(num_layers=3)), paper_teacher)
    assert (plan.network, plan.config["num_embeds_ada_norm"], plan.config["sample_size"]) == (DIT, 10, 32)
    plan = design(Student(architecture=STUDENT), DIT_S)
    assert (plan.network, plan.config["num_class_embeds"], plan.config["in_channels"]) == (UNET, 1001, 4)


def test_a_dit_that_cannot_be_made_that_small_is_refused_with_the_key_to_use() -> None:
    with pytest.raises(UserError, match=r"smallest student with attention_head_dim 64 has .* or give student\.dit"):
        design(Student(compression=1000), DIT_S)
    with pytest.raises(UserError, match=r"layers_per_block is a UNet's.*student\.dit\.num_layers"):
        design(Student(compression=4, layers_per_block=1), DIT_S)


def test_a_dits_parameters_are_counted_exactly() -> None:
    config = dit_config(
        DiT(num_layers=5, num_attention_heads=2, attention_head_dim=8), image_shape=(1, 8, 8), num_classes=3
    )
    made = create(config, network=DIT)
    assert count_parameters(config, network=DIT) == sum(p.numel() for p in made.parameters())


@pytest.mark.parametrize("layers", [1, 2, 3, 5])
@pytest.mark.parametrize("levels", [(), (0, 1)])
def test_parameters_of_a_deep_network_are_counted_from_two_shallow_ones(layers: int, levels: tuple[int, ...]) -> None:
    given = Architecture(
        block_out_channels=(8, 16, 16), layers_per_block=layers, norm_num_groups=4, attention_levels=levels
    )
    config = unet_config(given, image_shape=(1, 8, 8), num_classes=3)
    assert count_parameters(config) == sum(p.numel() for p in create(config).parameters())


@pytest.mark.parametrize("compression", [1.5, 3.0])
def test_no_student_is_narrower_than_an_attention_head(compression: float) -> None:
    teacher = Architecture(block_out_channels=(16, 32), layers_per_block=2, norm_num_groups=4, attention_head_dim=8)
    config = unet_config(teacher, image_shape=(1, 8, 8), num_classes=10)
    student = design(Student(compression=compression), config)
    try_forward(student.config, what="the student")
    assert min(c["block_out_channels"][-1] for c in candidates(config, layers_per_block=None)) == 8


def test_no_dit_has_a_width_that_its_positions_cannot_have() -> None:
    config = create(
        dit_config(DiT(num_attention_heads=8, attention_head_dim=6, num_layers=1), **SHAPE), network=DIT
    ).config
    assert {c["num_attention_heads"] for c in dit_candidates(dict(config))} == {2, 4, 6, 8}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Architecture(block_out_channels=(8, 16), attention_head_dim=32), "attention_head_dim 32 exceeds"),
        (lambda: DiT(num_attention_heads=1, attention_head_dim=2), "is 2; it must be a multiple of 4"),
    ],
)
def test_a_recipe_says_which_widths_attention_can_have(make, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        make()
