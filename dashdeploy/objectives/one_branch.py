"""Objectives of students with one branch: the guidance scale w is an input of the network.

A source of draws makes the target with the guided teacher (`diffusion/guided_targets.py`): what the student should
predict at (x_t, t, y, w). An objective says at which timesteps, for which w, and how far the teacher runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from dashdeploy.fields import DISTINCT, WHOLE, Coefficient
from dashdeploy.objectives.base import Batch, Objective, Student, Term, Terms, mse

if TYPE_CHECKING:
    import torch

Steps = Annotated[int, Field(ge=1, le=64), WHOLE]


class OneBranch(Objective):
    """What objectives with w as an input share: w is uniform in [w_min, w_max] for each sample."""

    branches: ClassVar[Literal[1, 2]] = 1

    w_min: Coefficient = Field(1.0, description="smallest guidance scale; the student can be sampled from it")
    w_max: Coefficient = Field(4.0, description="largest guidance scale; the student can be sampled up to it")

    @model_validator(mode="after")
    def _ordered(self) -> OneBranch:
        if self.w_max <= self.w_min:
            raise ValueError(f"w_max ({self.w_max:g}) must be above w_min ({self.w_min:g})")
        return self

    @property
    def guidance_range(self) -> tuple[float, float]:
        return self.w_min, self.w_max

    def scale(self, uniform: torch.Tensor) -> torch.Tensor:
        """The guidance scales of uniform draws from [0, 1)."""
        return self.w_min + (self.w_max - self.w_min) * uniform


class Guided(OneBranch):
    """Imitate the teacher's guided output at any t (Meng et al. 2023, arXiv:2210.03142, stage one, Eq. 6)."""

    kind: Literal["guided"] = "guided"

    def terms(self, student: Student, batch: Batch) -> Terms:
        """‖f(x_t, t, y, w) − the teacher's guided output‖², in what the student predicts."""
        return {"guided": Term(1.0, mse(student.guided(batch.x_t, batch.t, batch.y, batch.scales()), batch.target))}


class Segments(OneBranch):
    """The guided teacher runs from t to the next timestep of the student's grid; one DDIM step lands there.

    Both are a line in what the student predicts: a landing point is a target of the prediction at t, and the square
    error of the prediction is that of the landing point over |∂x_s/∂f|² (progressive distillation's Eq. 41, Salimans &
    Ho 2022, arXiv:2202.00512, Appendix G, with the teacher's whole path in place of two steps).
    """

    kind: Literal["segments"] = "segments"
    steps: Annotated[tuple[Steps, ...], DISTINCT] = Field(
        (4,), min_length=1, max_length=8, description="the numbers of steps that the student can make"
    )
    teacher_steps: Annotated[int, Field(ge=1, le=1000), WHOLE] = Field(
        6, description="steps of DPM-Solver++(2M) of the teacher from a timestep of the grid to the next"
    )

    @property
    def few_steps(self) -> tuple[int, ...]:
        return self.steps

    @property
    def solver_steps(self) -> int:
        return self.teacher_steps

    def terms(self, student: Student, batch: Batch) -> Terms:
        """The square error of the prediction whose DDIM step ends where the teacher's path does."""
        return {"landing": Term(1.0, mse(student.guided(batch.x_t, batch.t, batch.y, batch.scales()), batch.target))}


class Progressive(OneBranch):
    """Halve the number of steps, phase by phase (Salimans & Ho 2022, arXiv:2202.00512, Algorithm 2).

    In each phase one DDIM step of the student ends where two of its teacher do. The guided teacher teaches the first
    phase; the averaged student of each phase teaches the next, at the same w (Meng et al. 2023, arXiv:2210.03142, stage
    two), and the next begins with its weights. The loss is that of `Segments`.
    """

    kind: Literal["progressive"] = "progressive"
    steps: Steps = Field(4, description="the number of steps that the student makes at the end")
    halvings: Annotated[int, Field(ge=1, le=8), WHOLE] = Field(
        2,
        description="phases after the first, which makes steps·2^halvings steps; each further one makes half as many. "
        "They share distill.steps equally, and each has a warm-up and an lr_schedule of its own",
    )

    @property
    def few_steps(self) -> tuple[int, ...]:
        return (self.steps,)

    @property
    def phases(self) -> tuple[int, ...]:
        return tuple(self.steps * 2**halving for halving in range(self.halvings, -1, -1))

    @property
    def solver_steps(self) -> int:
        return 1  # to the timestep between two, and on from there

    def terms(self, student: Student, batch: Batch) -> Terms:
        """The square error of the prediction whose DDIM step ends where the teacher's two do."""
        return {"landing": Term(1.0, mse(student.guided(batch.x_t, batch.t, batch.y, batch.scales()), batch.target))}
