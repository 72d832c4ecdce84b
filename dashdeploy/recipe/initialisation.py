"""The starts that a student's weights may have, with their settings; part of the schema."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from dashdeploy.fields import Images, Model


class Random(Model):
    """Fresh weights, drawn by the recipe's seed."""

    kind: Literal["random"] = "random"


class Pruned(Model):
    """Weights cut out of the teacher's: some of its blocks, and some of their channels (structured pruning)."""

    kind: Literal["pruned"] = "pruned"
    importance: Literal["magnitude", "taylor", "random"] = Field(
        "magnitude",
        description="which channels of each group stay. magnitude: those of the largest norm. taylor: those of the "
        "largest |weight·gradient| of both branches' denoising loss. random: drawn by the recipe's seed",
    )
    samples: Images = Field(256, ge=1, description="taylor: number of training draws that the loss is summed over")


Init = Annotated[Random | Pruned, Field(discriminator="kind")]
