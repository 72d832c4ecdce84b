"""`dashdeploy adopt`: make a teacher folder from a checkpoint of the paper's code."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from dashdeploy.cli.options import MOST_SIDE
from dashdeploy.cli.output import Result, lines
from dashdeploy.terminal import say


class Weights(StrEnum):
    """Which weights of a checkpoint to take."""

    ema = "ema"
    model = "model"


def adopt(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="The checkpoint's file, ckpt_epoch_*.pth.")],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The teacher's folder, a new one.")],
    *,
    image_size: Annotated[
        int, typer.Option(help="Side of the images that the network was trained on, in pixels.", min=1, max=MOST_SIDE)
    ] = 32,
    weights: Annotated[
        Weights, typer.Option(help="Take the averaged weights, or those of the last step.")
    ] = Weights.ema,
) -> Result:
    """Convert a checkpoint of the paper's code (arXiv:2606.00798) to a teacher in diffusers format, with its λ.

    A recipe names it in teacher.path. With distill.timestep_weights.kind published or tirt the student uses its λ.
    """
    from dashdeploy.training.adopt import adopt as adopt_checkpoint

    teacher = adopt_checkpoint(checkpoint, folder, image_size=image_size, weights=weights.value)
    say(
        f"{teacher.parameters:,} parameters, {teacher.num_classes} classes, "
        + ("with λ" if teacher.has_lambda else "without λ: the checkpoint has none")
    )
    return lines(asdict(teacher), teacher.folder)
