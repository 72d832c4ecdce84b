"""Which of a UNet's residual blocks a shallower student takes from its teacher, and whether the two fit together."""

from __future__ import annotations

import inspect
import re
from typing import Any

import torch
from diffusers import UNet2DModel
from torch import nn

BLOCKS = {"DownBlock2D", "AttnDownBlock2D", "UpBlock2D", "AttnUpBlock2D"}
MAY_DIFFER = {
    "block_out_channels",
    "layers_per_block",
    "dropout",
    "sample_size",
    "time_embedding_dim",
    "num_train_timesteps",
}
REPEATED = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.(.+)")


def misfits(student: dict[str, Any], teacher: dict[str, Any]) -> list[str]:
    """Why the student of one configuration cannot be cut out of the teacher of the other; empty: it can."""
    student, teacher = _complete(student), _complete(teacher)
    kinds = {*teacher["down_block_types"], *teacher["up_block_types"]} - BLOCKS
    if kinds or teacher["time_embedding_type"] != "positional":
        unknown = ", ".join(sorted(kinds)) or f"a {teacher['time_embedding_type']} time embedding"
        return [f"the teacher has {unknown}; known are {', '.join(sorted(BLOCKS))} and a positional time embedding"]
    ours, theirs = student["block_out_channels"], teacher["block_out_channels"]
    if len(ours) != len(theirs):
        return [f"the student has {len(ours)} levels, the teacher {len(theirs)}"]
    problems = [
        f"{key} is {student[key]}, the teacher's {teacher[key]}"
        for key in sorted(teacher.keys() - MAY_DIFFER)
        if student[key] != teacher[key]
    ]
    if student["layers_per_block"] > teacher["layers_per_block"]:
        problems.append(
            f"layers_per_block is {student['layers_per_block']}, more than the teacher's {teacher['layers_per_block']}"
        )
    if any(narrow > wide for narrow, wide in zip(ours, theirs, strict=True)):
        problems.append(f"block_out_channels {ours} exceed the teacher's {theirs}")
    if ours[0] % 2 and ours[0] != theirs[0]:
        problems.append(
            f"block_out_channels[0] is {ours[0]}; it must be even, for a sine and a cosine of each frequency"
        )
    if (narrow := _time_width(student)) > (wide := _time_width(teacher)):
        problems.append(f"the time embedding is {narrow} wide, more than the teacher's {wide}")
    # A block between levels of one width adds its input as it is; the teacher's, between two widths, by a convolution.
    problems += [
        f"levels {i} and {i + 1} are equally wide and the teacher's are not, whose block changes the width there"
        for i in range(len(ours) - 1)
        if ours[i] == ours[i + 1] and theirs[i] != theirs[i + 1]
    ]
    return problems


def _complete(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration with diffusers' defaults filled in, and only the arguments of the class."""
    defaults = {name: p.default for name, p in inspect.signature(UNet2DModel.__init__).parameters.items()}
    known = {**defaults, **config}
    return {key: list(known[key]) if isinstance(known[key], tuple) else known[key] for key in defaults if key != "self"}


def _time_width(config: dict[str, Any]) -> int:
    return config["time_embedding_dim"] or 4 * config["block_out_channels"][0]


def selected(layers: int, *, of: int) -> tuple[list[int], list[int]]:
    """The teacher's blocks that a level of a shallower student takes: (down, up); the up path has one block more.

    Down: the first ones, and the last. Up: the first, whose input comes from the level below, and the last ones. So
    each block of the up path has the skip connection that it was trained with. There is one exception: where one block
    is left, the first block up has the skip connection of the first block down in place of the last one's.
    """
    return [*range(layers - 1), of - 1] if layers > 1 else [0], [0, *range(of - layers + 1, of + 1)]


def shallower(teacher: Any, layers_per_block: int) -> Any:
    """A copy of the teacher on the CPU, as wide, with only the selected blocks of each level."""
    config = {**_complete(dict(teacher.config)), "layers_per_block": layers_per_block, "dropout": 0.0}
    # Any: diffusers' models are not fully typed.
    network: Any = UNet2DModel(**config)
    down, up = selected(layers_per_block, of=teacher.config["layers_per_block"])
    theirs = {name: tensor.detach().cpu() for name, tensor in teacher.state_dict().items()}

    def source(name: str) -> str:
        if not (repeated := REPEATED.fullmatch(name)):
            return name
        path, level, kind, block, rest = repeated.groups()
        return f"{path}_blocks.{level}.{kind}.{(down if path == 'down' else up)[int(block)]}.{rest}"

    network.load_state_dict({name: theirs[source(name)] for name in network.state_dict()})
    return network


def add_shortcuts(network: Any, like: Any) -> None:
    """Give each block the shortcut convolution that the same block of `like` has, as the identity: outputs stay.

    Between two levels of one width a teacher has none, and a student that narrows one level more than the other does.
    """
    for name, block in like.named_modules():
        wide = network.get_submodule(name)
        if getattr(block, "conv_shortcut", None) is not None and wide.conv_shortcut is None:
            shortcut = nn.Conv2d(wide.in_channels, wide.out_channels, kernel_size=1)
            assert shortcut.bias is not None
            with torch.no_grad():
                nn.init.dirac_(shortcut.weight)
                shortcut.bias.zero_()
            wide.conv_shortcut = shortcut
