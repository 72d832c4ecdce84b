"""A student's network from a compression ratio, or as the recipe says."""

from __future__ import annotations

import bisect
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from dashdeploy.errors import UserError
from dashdeploy.recipe.schema import Student
from dashdeploy.students import blocks, dit_pruning
from dashdeploy.teachers.config import POSITIONS, levels_without_heads
from dashdeploy.teachers.dit import dit_config
from dashdeploy.teachers.networks import DEPTHS, DIT, UNET, arguments, count_parameters
from dashdeploy.teachers.unet2d import unet_config


@dataclass(frozen=True)
class StudentDesign:
    """A student's network: the arguments of a diffusers class, its name, and both parameter counts."""

    config: dict[str, Any]
    parameters: int
    teacher_parameters: int
    network: str = UNET

    @property
    def compression(self) -> float:
        """Teacher parameters over student parameters."""
        return self.teacher_parameters / self.parameters

    def describe(self) -> dict[str, Any]:
        """The figures that manifests and tables give of a student."""
        width = ("block_out_channels", "layers_per_block")
        if self.network == DIT:
            width = ("num_attention_heads", "num_layers")
        return {
            "parameters": self.parameters,
            "teacher_parameters": self.teacher_parameters,
            "compression": self.compression,
            **{key: self.config[key] for key in width},
        }


def design(student: Student, teacher_config: dict[str, Any], own: Mapping[str, Any] | None = None) -> StudentDesign:
    """The student that a recipe asks for.

    `compression` gives a smaller network of the teacher's kind: the largest candidate with at most teacher parameters /
    compression. An explicit student may be of either kind, for any teacher.

    Args:
        teacher_config: the teacher's config.json.
        own: `networks.OWN_KEYS` of the student's configuration.

    Raises:
        UserError: no candidate is that small; or the student is to be pruned from the teacher and cannot be.
    """
    network = teacher_config.get("_class_name", UNET)
    teacher = arguments(teacher_config)
    teacher_parameters = count_parameters(teacher, network=network)
    taught, teacher = teacher, {**teacher, **(own or {})}
    if student.compression is None:
        config, kind = _explicit(student, teacher)
        config = {**config, **(own or {})}
        if misfits := _unprunable(student, arguments(config), taught, networks={network, kind}):
            raise _cannot_be_cut_out(misfits)
        return StudentDesign(config, count_parameters(config, network=kind), teacher_parameters, kind)
    if network == DIT and student.layers_per_block is not None:
        raise UserError("student.layers_per_block is a UNet's, and the teacher is a DiT: give student.dit.num_layers")
    budget = teacher_parameters / student.compression
    some = dit_candidates(teacher) if network == DIT else candidates(teacher, layers_per_block=student.layers_per_block)
    problems = [_unprunable(student, arguments(config), taught, networks={network}) for config in some]
    if all(problems):
        raise _cannot_be_cut_out(problems[0])
    best: StudentDesign | None = None
    smallest = teacher_parameters
    for row in _by_depth([c for c, problem in zip(some, problems, strict=True) if not problem], network=network):
        size = functools.partial(count_parameters, network=network)
        smallest = min(smallest, size(row[0]))
        if fitting := bisect.bisect_right(row, budget, key=size):
            config = row[fitting - 1]
            if best is None or size(config) > best.parameters:
                best = StudentDesign(config, size(config), teacher_parameters, network)
    if best is None:
        if network == DIT:
            kept, key = f"attention_head_dim {teacher['attention_head_dim']}", "dit"
        else:
            kept = f"{len(teacher['block_out_channels'])} levels and norm_num_groups {teacher['norm_num_groups']}"
            key = "architecture"
        raise UserError(
            f"student.compression {student.compression:g}: the teacher's {teacher_parameters:,} parameters allow "
            f"{budget:,.0f}, and the smallest student with {kept} has {smallest:,}. Lower compression "
            f"(at most {teacher_parameters / smallest:.1f}) or give student.{key}."
        )
    return best


def _unprunable(student: Student, config: dict[str, Any], teacher: dict[str, Any], *, networks: set[str]) -> list[str]:
    """The reasons why a student cannot be pruned from its teacher. Empty: it can, or it begins at random."""
    if student.init.kind != "pruned":
        return []
    if len(networks) > 1:
        return ["the one is a UNet and the other a DiT"]
    if networks == {DIT}:
        if student.init.importance == "taylor":
            return ["importance taylor is for UNets; take magnitude or random"]
        return dit_pruning.misfits(config, teacher)
    return blocks.misfits(config, teacher)


def _cannot_be_cut_out(problems: list[str]) -> UserError:
    return UserError(
        f"student.init pruned: the student cannot be cut out of its teacher: {'; '.join(problems)}. "
        "student.compression gives one that differs only in its channels and blocks. Or set student.init to "
        "{kind: random}."
    )


def _explicit(student: Student, teacher: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Arguments and class of a student that the recipe spells out; images and classes are the teacher's."""
    c, size = teacher["in_channels"], teacher["sample_size"]
    embeds = teacher.get("num_class_embeds")
    num_classes = teacher["num_embeds_ada_norm"] if embeds is None else embeds - 1
    if student.dit is not None:
        return dit_config(student.dit, image_shape=(c, size, size), num_classes=num_classes), DIT
    assert student.architecture is not None
    return unet_config(student.architecture, image_shape=(c, size, size), num_classes=num_classes), UNET


def _by_depth(some: list[dict[str, Any]], *, network: str) -> list[list[dict[str, Any]]]:
    """Candidates of one depth together, from the narrowest to the widest, in which their sizes rise."""
    rows: dict[int, list[dict[str, Any]]] = {}
    for config in some:
        rows.setdefault(config[DEPTHS[network]], []).append(config)
    return list(rows.values())


def candidates(teacher: dict[str, Any], *, layers_per_block: int | None) -> list[dict[str, Any]]:
    """Every distinct narrower or shallower copy of a UNet; the number of levels and the places of attention stay.

    The channels are scaled by one factor, in multiples of norm_num_groups; a level has as many blocks or fewer, and
    where it has attention it is no narrower than a head.
    """
    step = teacher["norm_num_groups"]
    widths = teacher["block_out_channels"]
    factors = {Fraction(k * step, width) for width in widths for k in range(1, width // step + 1)}
    scaled = {tuple(max(step, round(width * factor / step) * step) for width in widths) for factor in factors}
    layers = range(1, teacher["layers_per_block"] + 1) if layers_per_block is None else [layers_per_block]
    some = [
        {**teacher, "block_out_channels": list(channels), "layers_per_block": n}
        for channels in sorted(scaled)
        for n in layers
    ]
    return [config for config in some if not levels_without_heads(config)]


def dit_candidates(teacher: dict[str, Any]) -> list[dict[str, Any]]:
    """Every DiT of fewer heads (of the teacher's head size) or fewer blocks; none predicts a variance.

    The depth falls no faster than the width, or the largest that fits could be one wide block.
    """
    depth, heads = teacher["num_layers"], teacher["num_attention_heads"]
    eps_only = {**teacher, "out_channels": teacher["in_channels"]}
    return [
        {**eps_only, "num_layers": layers, "num_attention_heads": h}
        for h in range(1, heads + 1)
        for layers in range(max(1, depth * h // heads), depth + 1)
        if h * teacher["attention_head_dim"] % POSITIONS == 0
    ]
