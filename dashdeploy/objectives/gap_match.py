"""The gap only: neither branch has the teacher's as its target."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from dashdeploy.fields import Number
from dashdeploy.objectives.base import Batch, Objective, Student, Term, Terms, mse


class GapMatch(Objective):
    """Imitate only the gap; the anchor holds the conditional branch."""

    kind: Literal["gap_match"] = "gap_match"
    gap: Number = Field(1.0, gt=0, description="weight of the gap's distance to the teacher's")
    anchor: Number = Field(1.0, gt=0, description="weight of the conditional branch's denoising loss")

    def terms(self, student: Student, batch: Batch) -> Terms:
        """The gap's error, and the anchor, which holds the conditional branch."""
        teacher_uncond, teacher_cond = batch.teacher_outputs()
        uncond, cond = student.branches(batch.x_t, batch.t, batch.y)
        return {
            "gap": Term(self.gap, mse(cond - uncond, teacher_cond - teacher_uncond)),
            "anchor": Term(self.anchor, mse(cond, batch.target)),
        }
