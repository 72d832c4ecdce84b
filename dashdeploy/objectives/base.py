"""What objectives share: the draw that they are computed on, their terms, and their settings' base class.

Nothing here imports torch: recipes are read and checked without it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from dashdeploy.fields import Model

if TYPE_CHECKING:
    import torch


class Objective(Model):
    """An objective: its settings, which a recipe gives under `distill.objective`, and its formula.

    Attributes:
        kind: names it in recipes.
        needs_teacher: whether the draws need the teacher's outputs.
        fine_tunes: whether the student must begin as a finished one of the same steps, range and prediction.
        branches: of the student. 1: w is an input of its network, and the draws hold targets of the guided teacher.
        solver: the one that a student of one branch is sampled with; consistency: the student says x_0 at once.
        grids_apart: whether a few-step student has timesteps of its own for each number of steps, see
            `diffusion.grids`.
    """

    kind: str
    needs_teacher: ClassVar[bool] = True
    fine_tunes: ClassVar[bool] = False
    branches: ClassVar[Literal[1, 2]] = 2
    solver: ClassVar[Literal["ddim", "consistency"]] = "ddim"
    grids_apart: ClassVar[bool] = True

    @property
    def few_steps(self) -> tuple[int, ...]:
        """The numbers of steps that the student is trained for; (): it is trained at all timesteps."""
        return ()

    @property
    def solver_steps(self) -> int:
        """Steps that the guided teacher takes for a target; 0: its output at t is the target."""
        return 0

    @property
    def skipped(self) -> int:
        """Timesteps that the guided teacher goes from t by one step, and the student is compared with itself there; 0:
        the student is compared with the teacher."""
        return 0

    @property
    def phases(self) -> tuple[int, ...]:
        """The numbers of steps that the student makes in one phase of the training after another; (): one phase."""
        return ()

    @property
    def hint_weight(self) -> float:
        """The weight of the feature hints; above 0 the draws need the teacher's features beside its outputs."""
        return 0.0

    @property
    def reads_guidance(self) -> bool:
        """Whether the terms depend on the recipe's guidance; if so, it is part of the student's key."""
        return False

    @property
    def guidance_range(self) -> tuple[float, float] | None:
        """The lowest and the highest guidance scale that the terms supervise; None: both branches, and so any scale."""
        return None

    def at_guidance(self, scales: Sequence[float]) -> Objective:
        """These settings with what depends on the guidance worked out; scales: w at every timestep."""
        return self

    @abstractmethod
    def terms(self, student: Student, batch: Batch) -> Terms:
        """The terms of the loss on one batch, by name."""


class Student(Protocol):
    """What an objective may ask of the student; `training.step.Compared` is one.

    Student, teacher and target are compared in one prediction (eps, v or x_0), see `diffusion.prediction.common`: eps,
    unless the student predicts something else.
    """

    def __call__(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The prediction (B, C, H, W) for labels y (B,)."""
        ...

    def branches(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(uncond, cond)."""
        ...

    def combine(self, uncond: torch.Tensor, cond: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        """The guided prediction of two branches; w: (B,)."""
        ...

    def guided(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        """The guided prediction at w (B,)."""
        ...

    def drop_labels(self, y: torch.Tensor, dropped: torch.Tensor) -> torch.Tensor:
        """y (B,) with the null class where `dropped` (B,) bool is true."""
        ...


@dataclass(frozen=True)
class Term:
    """One term of an objective: its coefficient and its per-sample value (B,)."""

    coefficient: float
    value: torch.Tensor


Terms = dict[str, Term]


def mse(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean square over C·H·W in float32: (B, C, H, W) twice -> (B,)."""
    return (prediction.float() - target.float()).square().flatten(1).mean(1)


@dataclass(frozen=True)
class Batch:
    """One draw of B images.

    Attributes:
        x_t: (B, C, H, W) float32, the noised images.
        t: (B,) int64 timesteps.
        y: (B,) int64 class labels.
        target: (B, C, H, W) float32, what a perfect network predicts: the noise in x_t, or its v or x_0. With s: x_s,
            where the guided teacher takes x_t.
        uniform: (B,) float32 in [0, 1), for what an objective draws for each sample (label dropout, w).
        w: (B,) float32, the guidance scale that `target` is for. None: an objective of two branches.
        s: (B,) int64, the timestep of x_s in `target`; −1 is clean. None: the student is not compared with itself.
        teacher_uncond, teacher_cond: (B, C, H, W) float32, the teacher's, as the same prediction. None: drawn without a
            teacher.
        teacher_features: (B, 2, C', H', W') of its middle block, [uncond, cond]. None: the objective wants none.
        trains_student: (B,) bool, the same for all. False: only the objective's own network trains. None: the student
            trains in every step.
    """

    x_t: torch.Tensor
    t: torch.Tensor
    y: torch.Tensor
    target: torch.Tensor
    uniform: torch.Tensor
    w: torch.Tensor | None = None
    s: torch.Tensor | None = None
    teacher_uncond: torch.Tensor | None = None
    teacher_cond: torch.Tensor | None = None
    teacher_features: torch.Tensor | None = None
    trains_student: torch.Tensor | None = None

    def teacher_outputs(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(uncond, cond) of the teacher."""
        assert self.teacher_uncond is not None and self.teacher_cond is not None, (
            "this batch was drawn without a teacher"
        )
        return self.teacher_uncond, self.teacher_cond

    def scales(self) -> torch.Tensor:
        """w of a batch that has one."""
        assert self.w is not None, "this batch was drawn without guidance scales"
        return self.w

    def take(self, rows: slice | torch.Tensor) -> Batch:
        """These rows of every tensor."""
        return self._each(lambda value: value[rows])

    def empty(self, rows: int) -> Batch:
        """Uninitialised tensors of these kinds for another number of rows."""
        return self._each(lambda value: value.new_empty((rows, *value.shape[1:])))

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        return self._each(lambda value: value.to(device, non_blocking=True))

    def _each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
        values: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        changed: dict[str, Any] = {k: None if v is None else change(v) for k, v in values.items()}
        return Batch(**changed)
