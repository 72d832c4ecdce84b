"""`dashdeploy adopt`: a checkpoint of the paper's own code as a teacher folder."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Weights(StrEnum):
    """Which of a checkpoint's weights."""

    ema = "ema"
    model = "model"


def adopt(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="Its file, ckpt_epoch_*.pth.")],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to write the teacher; a new folder.")],
    *,
    image_size: Annotated[int, typer.Option(help="Side of the images that it was trained on.", min=1)] = 32,
    weights: Annotated[Weights, typer.Option(help="The averaged weights, or those of the last step.")] = Weights.ema,
) -> None:
    """Write a checkpoint of the paper's own code (arXiv:2606.00798) as a teacher in diffusers format, with its λ.

    A recipe then takes it by teacher.path; distill.timestep_weights.kind published or tirt takes λ from it.
    """
    from dashdeploy.cli.job import warn
    from dashdeploy.training.adopt import adopt as adopt_checkpoint

    made = adopt_checkpoint(checkpoint, folder, image_size=image_size, weights=weights.value)
    warn(
        f"{made.parameters:,} parameters, {made.num_classes} classes, "
        + ("λ beside it" if made.has_lambda else "no λ: the checkpoint holds none")
    )
    print(made.folder)
