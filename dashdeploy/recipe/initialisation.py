"""How a student's weights may begin, each with its settings; part of the schema."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from dashdeploy.recipe.fields import Model, Positive


class Random(Model):
    """Fresh weights, from the recipe's seed alone."""

    kind: Literal["random"] = "random"


class Pruned(Model):
    """The teacher's own weights: a selection of its blocks, and of their channels (structured pruning)."""

    kind: Literal["pruned"] = "pruned"
    importance: Literal["magnitude", "taylor", "random"] = Field(
        "magnitude",
        description="which channels stay, by group: the largest norm; the largest |weight·gradient| of the denoising "
        "loss of both branches; drawn by the recipe's seed",
    )
    samples: Positive = Field(256, description="taylor: training draws that the loss is summed over")


Init = Annotated[Random | Pruned, Field(discriminator="kind")]
