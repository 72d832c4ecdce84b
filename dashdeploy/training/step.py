"""The loss of one training step as a module, so that DDP and mixed precision wrap all of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from dashdeploy.diffusion.denoiser import TorchDenoiser
from dashdeploy.diffusion.prediction import Prediction
from dashdeploy.objectives.base import Student, Terms
from dashdeploy.training.batches import Batch
from dashdeploy.training.fake_score import FakeScore
from dashdeploy.training.timestep_weights import TimestepWeights


@dataclass(frozen=True)
class Loss:
    """A batch's loss.

    Attributes:
        total: scalar, with its gradient.
        terms: weighted means by name, detached scalars.
        per_sample: (B,), unweighted and detached.
    """

    total: torch.Tensor
    terms: dict[str, torch.Tensor]
    per_sample: torch.Tensor


class Compared:
    """A student as objectives see it: its predictions as another one, as the teacher's and the targets are too."""

    def __init__(self, denoiser: TorchDenoiser, prediction: Prediction) -> None:
        self.denoiser, self.prediction = denoiser, prediction
        self.unet = denoiser.unet

    def _as_wanted(self, output: torch.Tensor, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return self.denoiser.interface.convert(output, x, t, self.prediction)

    def __call__(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self._as_wanted(self.denoiser(x, t, y), x, t)

    def branches(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(uncond, cond)."""
        uncond, cond = self.denoiser.branches(x, t, y)
        return self._as_wanted(uncond, x, t), self._as_wanted(cond, x, t)

    def guided(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        """The guided prediction at w (B,)."""
        return self._as_wanted(self.denoiser.guided(x, t, y, w), x, t)

    def combine(self, uncond: torch.Tensor, cond: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        """The guided prediction of two branches."""
        return self.denoiser.combine(uncond, cond, w)

    def drop_labels(self, y: torch.Tensor, dropped: torch.Tensor) -> torch.Tensor:
        """y with the null class where `dropped` is true."""
        return self.denoiser.drop_labels(y, dropped)


class TrainStep(nn.Module):
    """Student, timestep weights and objective: L = Σ_k c_k · mean_b(ŵ_t · term_k).

    Args:
        prediction: in which student, teacher and target are compared. None: the student's own.
    """

    def __init__(
        self,
        denoiser: TorchDenoiser,
        weights: TimestepWeights,
        objective: Callable[[Student, Batch], Terms],
        *,
        prediction: Prediction | None = None,
    ) -> None:
        super().__init__()
        self.denoiser, self.weights, self.objective = denoiser, weights, objective
        self.prediction: Prediction = prediction or denoiser.interface.prediction

    def clipped(self) -> list[list[nn.Parameter]]:
        """The parameters whose gradients are clipped together. A fake score has a loss, and so a norm, of its own."""
        apart = list(self.objective.fake.parameters()) if isinstance(self.objective, FakeScore) else []
        known = {id(p) for p in apart}
        together = [p for p in self.parameters() if id(p) not in known]
        return [together, apart] if apart else [together]

    def forward(self, batch: Batch, t_batch: torch.Tensor) -> Loss:
        """The loss of this process's part of a batch; t_batch: (N,) int64, the timesteps of the whole batch."""
        same = self.prediction == self.denoiser.interface.prediction
        terms = self.objective(self.denoiser if same else Compared(self.denoiser, self.prediction), batch)
        w = self.weights(batch.t, t_batch)
        weighted = {name: (w * term.value).mean() for name, term in terms.items()}
        per_sample = sum((term.coefficient * term.value for term in terms.values()), torch.zeros_like(w))
        total = sum((terms[name].coefficient * value for name, value in weighted.items()), torch.zeros_like(w[0]))
        total = total + self.weights.regulariser(batch.t).mean()
        return Loss(total, {name: value.detach() for name, value in weighted.items()}, per_sample.detach())
