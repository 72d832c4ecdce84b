"""Distribution matching: the student's images become as likely under the guided teacher as under itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from dashdeploy.fields import DISTINCT, WHOLE, Number
from dashdeploy.objectives.base import Batch, Student, Term, Terms, mse
from dashdeploy.objectives.one_branch import OneBranch, Steps

if TYPE_CHECKING:
    import torch


class DistributionMatching(OneBranch):
    """Fine-tunes a few-step student that regression left blurred (DMD2, Yin et al. 2024, arXiv:2405.14867, no GAN).

    The gradient of KL(student's images ‖ guided teacher's) is a difference of two denoisers (DMD, Yin et al. 2024,
    arXiv:2311.18828, Eq. 7): the guided teacher, and the fake score, which learns what the student makes. Both see the
    student's image noised to a random t'. See `training/fake_score.py`.
    """

    fine_tunes: ClassVar[bool] = True

    kind: Literal["distribution_matching"] = "distribution_matching"
    steps: Annotated[tuple[Steps, ...], DISTINCT] = Field(
        (2, 1), min_length=1, max_length=8, description="the numbers of steps of the student that it begins with"
    )
    fake_updates: Annotated[int, Field(ge=1, le=1000), WHOLE] = Field(
        5, description="training steps of the fake score for one of the student; every step trains the fake score"
    )
    noised_from: Number = Field(0.02, ge=0, lt=1, description="lowest t' that the student's image is noised to, over T")
    noised_to: Number = Field(0.98, gt=0, le=1, description="its upper bound, over T")

    @model_validator(mode="after")
    def _noises(self) -> DistributionMatching:
        if self.noised_to <= self.noised_from:
            raise ValueError(f"noised_to ({self.noised_to:g}) must be above noised_from ({self.noised_from:g})")
        return self

    @property
    def few_steps(self) -> tuple[int, ...]:
        return self.steps

    def trains_student(self, step: int, *, warmup_steps: int) -> bool:
        """Whether the student trains in this step, counted from 0: in the last of every `fake_updates`.

        Not during the warm-up: the fake score begins as the teacher's conditional branch, and what it says of a guided
        student would be wrong by the whole of the guidance.
        """
        return step >= warmup_steps and (step + 1) % self.fake_updates == 0

    def first_step(self, warmup_steps: int) -> int:
        """The first step in which the student trains, counted from 0."""
        return -(-(warmup_steps + 1) // self.fake_updates) * self.fake_updates - 1

    def noised_t(self, uniform: torch.Tensor, num_train_timesteps: int) -> torch.Tensor:
        """t' (B,) int64 of uniform draws (B,) from [0, 1)."""
        low = min(round(self.noised_from * num_train_timesteps), num_train_timesteps - 1)
        count = max(1, round(self.noised_to * num_train_timesteps) - low)
        return low + (uniform * count).long().clamp(max=count - 1)

    def target(self, x_0: torch.Tensor, fake: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        """Where the student's x_0 should move: x_0 − (fake − real) / mean|x_0 − real| (DMD Eq. 7–8).

        Args:
            x_0: (B, C, H, W) float32, the student's images.
            fake, real: their x_0 by the fake score and by the guided teacher, seen at t'. The mean is over C·H·W.
        """
        size = (x_0 - real).abs().flatten(1).mean(1).clamp(min=1e-6).view(-1, 1, 1, 1)
        return x_0 - (fake - real) / size

    def terms(self, student: Student, batch: Batch) -> Terms:
        """½‖x_0 − target‖², whose gradient is the direction; student and target are x_0."""
        x_0 = student.guided(batch.x_t, batch.t, batch.y, batch.scales())
        return {"matching": Term(0.5, mse(x_0, batch.target))}
