"""Denoising with label dropout for each sample (Ho & Salimans 2022): how teachers train, and students without one."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from dashdeploy.fields import Number
from dashdeploy.objectives.base import Batch, Objective, Student, Term, Terms, mse


class Scratch(Objective):
    """No teacher: the denoising loss with label dropout."""

    kind: Literal["scratch"] = "scratch"
    needs_teacher: ClassVar[bool] = False

    label_dropout: Number = Field(0.1, ge=0, lt=1, description="chance that a sample's label becomes the null class")

    def terms(self, student: Student, batch: Batch) -> Terms:
        """The error of the prediction; labels are dropped at random."""
        y = student.drop_labels(batch.y, batch.uniform < self.label_dropout)
        return {"denoise": Term(1.0, mse(student(batch.x_t, batch.t, y), batch.target))}
