"""The starts that a student's weights may have, with their settings; part of the schema."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from dashdeploy.fields import Images, Model, Text


class Random(Model):
    """Fresh weights, drawn by the recipe's seed."""

    kind: Literal["random"] = "random"


class Pruned(Model):
    """Weights cut out of the teacher's: some of its blocks, and some of their channels (structured pruning)."""

    kind: Literal["pruned"] = "pruned"
    importance: Literal["magnitude", "taylor", "random"] = Field(
        "magnitude",
        description="which channels of each group stay. magnitude: those of the largest norm. taylor: those of the "
        "largest |weight·gradient| of both branches' denoising loss; of UNets. random: drawn by the recipe's seed. "
        "Of a DiT the blocks are chosen too: those without which both branches and their gap change most",
    )
    samples: Images = Field(
        256, ge=1, description="number of training draws that taylor, and a DiT's blocks, are judged on"
    )


class Run(Model):
    """The weights of a finished student of the same network: size first, steps second."""

    kind: Literal["run"] = "run"
    path: Text = Field(
        description="run folder, or its student's folder, relative to this file, or in a recipe that ships to where "
        "you are"
    )


Init = Annotated[Random | Pruned | Run, Field(discriminator="kind")]
