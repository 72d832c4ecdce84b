"""The loss of one training step as a module, so that DDP and mixed precision wrap all of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from dashdeploy.diffusion.denoiser import TorchDenoiser
from dashdeploy.objectives.base import Terms
from dashdeploy.training.batches import Batch
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


class TrainStep(nn.Module):
    """Student, timestep weights and objective: L = Σ_k c_k · mean_b(ŵ_t · term_k)."""

    def __init__(
        self, denoiser: TorchDenoiser, weights: TimestepWeights, objective: Callable[[TorchDenoiser, Batch], Terms]
    ) -> None:
        super().__init__()
        self.denoiser, self.weights, self.objective = denoiser, weights, objective

    def forward(self, batch: Batch, t_batch: torch.Tensor) -> Loss:
        """The loss of this process's part of a batch; t_batch: (N,) int64, the timesteps of the whole batch."""
        terms = self.objective(self.denoiser, batch)
        w = self.weights(batch.t, t_batch)
        weighted = {name: (w * term.value).mean() for name, term in terms.items()}
        per_sample = sum((term.coefficient * term.value for term in terms.values()), torch.zeros_like(w))
        total = sum((terms[name].coefficient * value for name, value in weighted.items()), torch.zeros_like(w[0]))
        total = total + self.weights.regulariser(batch.t).mean()
        return Loss(total, {name: value.detach() for name, value in weighted.items()}, per_sample.detach())
