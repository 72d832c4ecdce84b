"""One branch a sample, the same for teacher and student: output distillation under ordinary label dropout."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from dashdeploy.fields import Coefficient, Number
from dashdeploy.objectives.base import Batch, Objective, Student, Term, Terms, mse


class SharedMask(Objective):
    """One label-drop mask for teacher and student: each sample imitates one branch, drawn at random."""

    kind: Literal["shared_mask"] = "shared_mask"
    label_dropout: Number = Field(0.1, ge=0, lt=1, description="chance of the unconditional branch")
    imitation: Number = Field(1.0, gt=0, description="weight of the distance to the teacher's branch")
    anchor: Coefficient = Field(0.1, description="weight of the denoising loss")

    def terms(self, student: Student, batch: Batch) -> Terms:
        """The teacher's unconditional output is the target where the label is dropped."""
        dropped = batch.uniform < self.label_dropout
        teacher_uncond, teacher_cond = batch.teacher_outputs()
        target = teacher_uncond.where(dropped.view(-1, 1, 1, 1), teacher_cond)
        output = student(batch.x_t, batch.t, student.drop_labels(batch.y, dropped))
        return {
            "imitation": Term(self.imitation, mse(output, target)),
            "anchor": Term(self.anchor, mse(output, batch.target)),
        }
