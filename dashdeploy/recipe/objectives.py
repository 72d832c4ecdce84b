"""The objectives that a recipe may name, with their settings; `training/objectives.py` computes them.

A coefficient multiplies a per-sample mean square over C·H·W. `anchor` is for the conditional branch's denoising loss.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from dashdeploy.recipe.fields import Coefficient, Model, Number


class Dash(Model):
    """L = imitation·L_im + unconditional·L_un + anchor·L_an (arXiv:2606.00798 Eq. 7), and gap·L_gap."""

    kind: Literal["dash"] = "dash"
    imitation: Coefficient = 1.0
    unconditional: Coefficient = 1.0
    anchor: Coefficient = 0.1
    gap: Coefficient | Literal["guidance"] = Field(
        0.0,
        description="weight of the gap eps_cond − eps_uncond. guidance: w(w − 1), its weight in the guided error at "
        "the recipe's guidance; imitation, unconditional and gap are then scaled to the sum of the first two",
    )
    hint: Coefficient = Field(0.0, description="weight of both branches' middle features, as in fitnets")

    @model_validator(mode="after")
    def _asks_for_something(self) -> Dash:
        if self.imitation == self.unconditional == self.anchor == 0 and not self.gap:
            but = " but hint, which does not concern the output" if self.hint else ": there is nothing to learn"
            raise ValueError(f"all coefficients are 0{but}")
        if self.gap == "guidance" and self.imitation + self.unconditional == 0:
            raise ValueError("gap: guidance scales itself to imitation + unconditional, and both are 0")
        return self


class CondOnly(Model):
    """Imitate only the conditional branch: the control whose guidance breaks."""

    kind: Literal["cond_only"] = "cond_only"
    imitation: Coefficient = 1.0
    anchor: Coefficient = 0.1

    @model_validator(mode="after")
    def _asks_for_something(self) -> CondOnly:
        if self.imitation == self.anchor == 0:
            raise ValueError("all coefficients are 0: there is nothing to learn")
        return self


class Composite(Model):
    """Imitate the guided output at a fixed w; nothing supervises the two branches as such."""

    kind: Literal["composite"] = "composite"
    w: Coefficient = 2.5
    anchor: Coefficient = 0.1


class MultiW(Model):
    """Imitate the guided output at a w that is drawn for each sample, uniform in [w_min, w_max]."""

    kind: Literal["multi_w"] = "multi_w"
    w_min: Coefficient = 1.0
    w_max: Coefficient = 4.0
    anchor: Coefficient = 0.1

    @model_validator(mode="after")
    def _ordered(self) -> MultiW:
        if self.w_max <= self.w_min:
            raise ValueError(f"w_max ({self.w_max:g}) must be above w_min ({self.w_min:g})")
        return self


class GapMatch(Model):
    """Imitate only the gap; the anchor holds the conditional branch."""

    kind: Literal["gap_match"] = "gap_match"
    gap: Annotated[float, Field(gt=0)] = 1.0
    anchor: Annotated[float, Field(gt=0)] = 1.0


class FitNets(Model):
    """Imitate the conditional branch, and both branches' middle features by a 1×1 adapter (Romero et al. 2015)."""

    kind: Literal["fitnets"] = "fitnets"
    imitation: Coefficient = 1.0
    hint: Annotated[float, Field(gt=0)] = 1.0
    anchor: Coefficient = 0.1

    @model_validator(mode="after")
    def _asks_for_something(self) -> FitNets:
        if self.imitation == self.anchor == 0:
            raise ValueError("imitation and anchor are 0: hints do not concern the output")
        return self


class SharedMask(Model):
    """One label-drop mask for teacher and student: each sample imitates one branch, drawn at random."""

    kind: Literal["shared_mask"] = "shared_mask"
    label_dropout: Number = Field(0.1, ge=0, lt=1, description="chance of the unconditional branch")
    imitation: Annotated[float, Field(gt=0)] = 1.0
    anchor: Coefficient = 0.1


class SingleHead(Model):
    """The student's conditional branch imitates the guided output: sample it with w = 1, without guidance."""

    kind: Literal["single_head"] = "single_head"
    w: Coefficient = 2.0


class Scratch(Model):
    """No teacher: the denoising loss with label dropout."""

    kind: Literal["scratch"] = "scratch"
    label_dropout: Number = Field(0.1, ge=0, lt=1)


Objective = Annotated[
    Dash | CondOnly | Composite | MultiW | GapMatch | FitNets | SharedMask | SingleHead | Scratch,
    Field(discriminator="kind"),
]


def hint_of(objective: Objective) -> float:
    """The weight of the feature hints; above 0 the objective needs the teacher's features beside its outputs."""
    return objective.hint if isinstance(objective, Dash | FitNets) else 0.0
