"""Consistency distillation of a guided teacher: at any two points of one path the student says the same image.

The student is held against itself, without gradient, a step of the teacher nearer to clean (Song et al. 2023,
arXiv:2303.01469, Algorithm 2). The teacher is guided, w is an input of the student, and the step skips timesteps, as in
latent consistency models (Luo et al. 2023, arXiv:2310.04378, Section 4.2 and 4.3).
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from dashdeploy.fields import DISTINCT, WHOLE
from dashdeploy.objectives.base import Batch, Student, Term, Terms, mse
from dashdeploy.objectives.one_branch import OneBranch, Steps

HUBER = 0.00054
"""c/√(C·H·W) of the pseudo-Huber distance (Song & Dhariwal 2023, arXiv:2310.14189, Section 3.3)."""


class Consistency(OneBranch):
    """Say of x_t what the student itself says of x_s, where one DDIM step of the guided teacher takes x_t.

    The target is of the weights that train, not of an average (arXiv:2310.14189, Section 3.2), and is taken with the
    same dropout (as the authors' code does). Their weight 1/(σ_t − σ_s) of a pair is left out: it is for σ-spaced
    pairs, and arXiv:2310.04378 weighs all alike; `distill.timestep_weights` can weigh t.
    """

    kind: Literal["consistency"] = "consistency"
    solver: ClassVar[Literal["ddim", "consistency"]] = "consistency"
    grids_apart: ClassVar[bool] = False

    steps: Annotated[tuple[Steps, ...], DISTINCT] = Field(
        (1, 2, 4), min_length=1, max_length=8, description="the numbers of steps that the student can make"
    )
    skip: Annotated[int, Field(ge=1, le=1000), WHOLE] = Field(
        20, description="timesteps that the teacher's step goes from t, at most to clean"
    )

    @property
    def few_steps(self) -> tuple[int, ...]:
        return self.steps

    @property
    def skipped(self) -> int:
        return self.skip

    def terms(self, student: Student, batch: Batch) -> Terms:
        """√(‖x_0(x_t) − x_0(x_s)‖² + c²) − c (arXiv:2310.14189, Eq. 7), over √(C·H·W); at s = −1 x_0(x_s) is x_s."""
        import torch

        assert batch.s is not None, "this batch was drawn without s"
        x_s, y, w = batch.target, batch.y, batch.scales()
        gpus = [batch.t.get_device()] if batch.t.is_cuda else []
        # Both forwards draw the same dropout.
        with torch.random.fork_rng(devices=gpus):
            x_0 = student.guided(batch.x_t, batch.t, y, w)
        with torch.no_grad():
            target = student.guided(x_s, batch.s.clamp(min=0), y, w)
            target = target.where((batch.s >= 0).view(-1, 1, 1, 1), x_s)
        return {"consistency": Term(1.0, (mse(x_0, target) + HUBER**2).sqrt() - HUBER)}
