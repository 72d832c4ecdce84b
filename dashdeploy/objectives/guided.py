"""The guided output as the target: at one w, or at a w that is drawn for each sample."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from dashdeploy.fields import Coefficient
from dashdeploy.objectives.base import Batch, Objective, Student, Term, Terms, mse

if TYPE_CHECKING:
    import torch


class Composite(Objective):
    """Imitate the guided output at a fixed w; nothing supervises the two branches as such."""

    kind: Literal["composite"] = "composite"
    w: Coefficient = Field(2.5, description="guidance scale of the output that it imitates")
    anchor: Coefficient = Field(0.1, description="weight of the conditional branch's denoising loss")

    @property
    def guidance_range(self) -> tuple[float, float]:
        return self.w, self.w

    def terms(self, student: Student, batch: Batch) -> Terms:
        """One guided output at the recipe's w."""
        return _guided(student, batch, batch.uniform.new_full(batch.uniform.shape, self.w), anchor=self.anchor)


class MultiW(Objective):
    """Imitate the guided output at a w that is drawn for each sample, uniform in [w_min, w_max]."""

    kind: Literal["multi_w"] = "multi_w"
    w_min: Coefficient = Field(1.0, description="smallest guidance scale that is drawn")
    w_max: Coefficient = Field(4.0, description="largest guidance scale that is drawn")
    anchor: Coefficient = Field(0.1, description="weight of the conditional branch's denoising loss")

    @model_validator(mode="after")
    def _ordered(self) -> MultiW:
        if self.w_max <= self.w_min:
            raise ValueError(f"w_max ({self.w_max:g}) must be above w_min ({self.w_min:g})")
        return self

    @property
    def guidance_range(self) -> tuple[float, float]:
        return self.w_min, self.w_max

    def terms(self, student: Student, batch: Batch) -> Terms:
        """One guided output at each sample's w."""
        w = self.w_min + (self.w_max - self.w_min) * batch.uniform
        return _guided(student, batch, w, anchor=self.anchor)


def _guided(student: Student, batch: Batch, w: torch.Tensor, *, anchor: float) -> Terms:
    uncond, cond = student.branches(batch.x_t, batch.t, batch.y)
    guided, target = student.combine(uncond, cond, w), student.combine(*batch.teacher_outputs(), w)
    return {"guided": Term(1.0, mse(guided, target)), "anchor": Term(anchor, mse(cond, batch.target))}


class SingleHead(Objective):
    """The student's conditional branch imitates the guided output: sample it with w = 1, without guidance."""

    kind: Literal["single_head"] = "single_head"
    w: Coefficient = Field(2.0, description="guidance scale of the output that it imitates")

    @property
    def guidance_range(self) -> tuple[float, float]:
        return 1.0, 1.0

    def terms(self, student: Student, batch: Batch) -> Terms:
        """The teacher's guided output is the conditional branch's target (Meng et al. 2023, at one w)."""
        w = batch.uniform.new_full(batch.uniform.shape, self.w)
        target = student.combine(*batch.teacher_outputs(), w)
        return {"guided": Term(1.0, mse(student(batch.x_t, batch.t, batch.y), target))}
