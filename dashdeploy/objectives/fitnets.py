"""FitNets (Romero et al. 2015): the conditional branch, and both branches' middle features."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from dashdeploy.fields import Coefficient, Number
from dashdeploy.objectives.base import Batch, Objective, Student, Term, Terms, mse


class FitNets(Objective):
    """Imitate the conditional branch, and both branches' middle features by a 1×1 adapter (Romero et al. 2015)."""

    kind: Literal["fitnets"] = "fitnets"
    imitation: Coefficient = Field(1.0, description="weight of the conditional branch's distance to the teacher's")
    hint: Number = Field(1.0, gt=0, description="weight of both branches' middle features")
    anchor: Coefficient = Field(0.1, description="weight of the conditional branch's denoising loss")

    @model_validator(mode="after")
    def _asks_for_something(self) -> FitNets:
        if self.imitation == self.anchor == 0:
            raise ValueError("imitation and anchor are 0: hints do not concern the output")
        return self

    @property
    def hint_weight(self) -> float:
        return self.hint

    def terms(self, student: Student, batch: Batch) -> Terms:
        """Only the conditional branch has a target; both run, so that the hints can be of both."""
        _, teacher_cond = batch.teacher_outputs()
        _, cond = student.branches(batch.x_t, batch.t, batch.y)
        return {
            "imitation": Term(self.imitation, mse(cond, teacher_cond)),
            "anchor": Term(self.anchor, mse(cond, batch.target)),
        }
