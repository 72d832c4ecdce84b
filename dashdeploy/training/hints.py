"""Hints: the student's middle features follow the teacher's through a 1×1 adapter (FitNets, Romero et al. 2015)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import nn

from dashdeploy.diffusion import guidance
from dashdeploy.diffusion.denoiser import TorchDenoiser
from dashdeploy.errors import UserError
from dashdeploy.objectives.base import Student, Term, Terms, mse
from dashdeploy.teachers import networks
from dashdeploy.training.batches import Batch
from dashdeploy.training.step import Compared


class HasNetwork(Protocol):
    """A denoiser around a network of diffusers."""

    @property
    def unet(self) -> Any: ...


@contextmanager
def middle_features(denoiser: HasNetwork) -> Iterator[list[torch.Tensor]]:
    """The output of the UNet's middle block, (B, C', H', W'), for each forward within the `with` block."""
    features: list[torch.Tensor] = []

    def keep(module: nn.Module, inputs: object, output: torch.Tensor) -> None:
        features.append(output)

    hook = _middle(denoiser).register_forward_hook(keep)
    try:
        yield features
    finally:
        hook.remove()


def refuse(network: str) -> None:
    """Refuse hints from or for a network, by its class name.

    Raises:
        UserError: it has no middle block.
    """
    if network != networks.UNET:
        raise UserError(
            f"a {network} has no middle block, and hints are of UNet2DModels' middle blocks. Take another objective, "
            "or hint: 0."
        )


def _middle(denoiser: HasNetwork) -> nn.Module:
    refuse(type(denoiser.unet).__name__)
    middle: nn.Module = denoiser.unet.mid_block
    return middle


class Hints(nn.Module):
    """An objective with one more term: both branches' middle features of the student, mapped by a 1×1 convolution.

    The convolution trains with the student and is not part of it. The term is a mean square over C'·H'·W'.
    """

    def __init__(
        self,
        student: TorchDenoiser,
        teacher: TorchDenoiser,
        objective: Callable[[Student, Batch], Terms],
        *,
        weight: float,
    ) -> None:
        super().__init__()
        for denoiser in (student, teacher):
            _middle(denoiser)
        self.objective, self.weight = objective, weight
        narrow, wide = (denoiser.unet.config["block_out_channels"][-1] for denoiser in (student, teacher))
        self.adapter = nn.Conv2d(narrow, wide, kernel_size=1)

    def forward(self, student: TorchDenoiser | Compared, batch: Batch) -> Terms:
        """The objective's terms, and the hint."""
        assert batch.teacher_features is not None, "this batch was drawn without the teacher's features"
        with middle_features(student) as features:
            terms = self.objective(student, batch)
        hinted = guidance.by_branch(self.adapter(features[0]))
        return {**terms, "hint": Term(self.weight, mse(hinted, batch.teacher_features))}
