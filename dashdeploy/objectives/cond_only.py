"""The conditional branch only: a control, which leaves the unconditional branch, and so the gap, to chance."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from dashdeploy.fields import Coefficient
from dashdeploy.objectives.base import Batch, Objective, Student, Term, Terms, mse


class CondOnly(Objective):
    """Imitate only the conditional branch: the control whose guidance breaks."""

    kind: Literal["cond_only"] = "cond_only"
    imitation: Coefficient = Field(1.0, description="weight of the conditional branch's distance to the teacher's")
    anchor: Coefficient = Field(0.1, description="weight of the conditional branch's denoising loss")

    @model_validator(mode="after")
    def _asks_for_something(self) -> CondOnly:
        if self.imitation == self.anchor == 0:
            raise ValueError("all coefficients are 0: there is nothing to learn")
        return self

    def terms(self, student: Student, batch: Batch) -> Terms:
        """One forward of the student, with the labels."""
        _, teacher_cond = batch.teacher_outputs()
        cond = student(batch.x_t, batch.t, batch.y)
        return {
            "imitation": Term(self.imitation, mse(cond, teacher_cond)),
            "anchor": Term(self.anchor, mse(cond, batch.target)),
        }
