"""A student's channels and blocks from a compression ratio."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from dashdeploy.errors import UserError
from dashdeploy.recipe.schema import Student
from dashdeploy.teachers.unet2d import count_parameters, unet_config


@dataclass(frozen=True)
class StudentPlan:
    """A student's `UNet2DModel` arguments and both parameter counts."""

    config: dict[str, Any]
    parameters: int
    teacher_parameters: int

    @property
    def compression(self) -> float:
        """Teacher parameters over student parameters."""
        return self.teacher_parameters / self.parameters


def design(student: Student, teacher_config: dict[str, Any]) -> StudentPlan:
    """The student that a recipe asks for, beside the teacher at hand.

    With `compression`, every level's channels are scaled by one factor and rounded to a multiple of
    norm_num_groups, the blocks a level go from the teacher's down to 1, and the level count and the
    places of attention stay; the largest that fits in teacher parameters / compression is taken.

    Raises:
        UserError: the teacher cannot be made that small with its level count.
    """
    teacher = {k: v for k, v in teacher_config.items() if not k.startswith("_")}
    teacher_parameters = count_parameters(teacher)
    if student.architecture is not None:
        c, size = teacher["in_channels"], teacher["sample_size"]
        config = unet_config(
            student.architecture, image_shape=(c, size, size), num_classes=teacher["num_class_embeds"] - 1
        )
        return StudentPlan(config, count_parameters(config), teacher_parameters)
    assert student.compression is not None
    budget = teacher_parameters / student.compression
    best: StudentPlan | None = None
    smallest = teacher_parameters
    for config in candidates(teacher, layers_per_block=student.layers_per_block):
        parameters = count_parameters(config)
        smallest = min(smallest, parameters)
        if parameters <= budget and (best is None or parameters > best.parameters):
            best = StudentPlan(config, parameters, teacher_parameters)
    if best is None:
        raise UserError(
            f"student.compression {student.compression:g}: the teacher's {teacher_parameters:,} parameters allow "
            f"{budget:,.0f}, and the smallest student with {len(teacher['block_out_channels'])} levels and "
            f"norm_num_groups {teacher['norm_num_groups']} has {smallest:,}. Lower compression "
            f"(at most {teacher_parameters / smallest:.1f}) or give student.architecture."
        )
    return best


def candidates(teacher: dict[str, Any], *, layers_per_block: int | None) -> list[dict[str, Any]]:
    """Every distinct narrower or shallower copy of the teacher, channels in multiples of norm_num_groups."""
    step = teacher["norm_num_groups"]
    widths = teacher["block_out_channels"]
    factors = {Fraction(k * step, width) for width in widths for k in range(1, width // step + 1)}
    scaled = {tuple(max(step, round(width * factor / step) * step) for width in widths) for factor in factors}
    layers = range(1, teacher["layers_per_block"] + 1) if layers_per_block is None else [layers_per_block]
    return [
        {**teacher, "block_out_channels": list(channels), "layers_per_block": n}
        for channels in sorted(scaled)
        for n in layers
    ]
