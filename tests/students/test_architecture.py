from __future__ import annotations

import pytest

from dashdeploy.errors import UserError
from dashdeploy.recipe.schema import Architecture, Student
from dashdeploy.students.architecture import candidates, design
from dashdeploy.teachers.unet2d import count_parameters, unet_config

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
