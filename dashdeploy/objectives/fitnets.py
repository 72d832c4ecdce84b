"""FitNets (Romero et al. 2015): the conditional branch, and both branches' middle features."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from dashdeploy.fields import Coefficient
from dashdeploy.objectives.base import Batch, Objective, Student, Term, Terms, mse


class FitNets(Objective):
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

    @property
    def hint_weight(self) -> float:
        return self.hint

    def terms(self, student: Student, batch: Batch) -> Terms:
        """Only the conditional branch has a target; both run, so that the hints can be of both."""
        _, teacher_cond = batch.teacher_outputs()
        _, eps_cond = student.branches(batch.x_t, batch.t, batch.y)
        return {
            "imitation": Term(self.imitation, mse(eps_cond, teacher_cond)),
            "anchor": Term(self.anchor, mse(eps_cond, batch.eps)),
        }
