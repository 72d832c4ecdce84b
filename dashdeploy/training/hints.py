"""FitNets: the student's middle features follow the teacher's through a 1×1 adapter (Romero et al. 2015)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from dashdeploy.diffusion import guidance
from dashdeploy.diffusion.denoiser import TorchDenoiser
from dashdeploy.errors import UserError
from dashdeploy.recipe import objectives as sections
from dashdeploy.training.batches import Batch
from dashdeploy.training.objectives import Term, Terms, mse


@contextmanager
def middle_features(denoiser: TorchDenoiser) -> Iterator[list[torch.Tensor]]:
    """What the UNet's middle block gives at each forward inside of the block: (B, C', H', W') each."""
    found: list[torch.Tensor] = []

    def keep(module: nn.Module, inputs: object, output: torch.Tensor) -> None:
        found.append(output)

    hook = denoiser.unet.mid_block.register_forward_hook(keep)
    try:
        yield found
    finally:
        hook.remove()


class FitNets(nn.Module):
    """The objective; its adapter trains with the student and is not part of it."""

    def __init__(self, student: TorchDenoiser, teacher: TorchDenoiser, config: sections.FitNets) -> None:
        super().__init__()
        for denoiser, role in ((student, "student"), (teacher, "teacher")):
            if not hasattr(denoiser.unet, "mid_block"):
                raise UserError(
                    f"objective fitnets: the {role} is a {type(denoiser.unet).__name__}, which has no middle block; "
                    "its hints are UNet2DModels'. Take another objective."
                )
        self.config = config
        narrow, wide = (denoiser.unet.config["block_out_channels"][-1] for denoiser in (student, teacher))
        self.adapter = nn.Conv2d(narrow, wide, kernel_size=1)

    def forward(self, student: TorchDenoiser, batch: Batch) -> Terms:
        """Imitation and anchor of the conditional branch; the hint of both branches, a mean square over C'·H'·W'."""
        _, teacher_cond = batch.teacher_outputs()
        assert batch.teacher_features is not None, "this batch was drawn without the teacher's features"
        with middle_features(student) as features:
            _, eps_cond = student.branches(batch.x_t, batch.t, batch.y)
        hinted = guidance.by_branch(self.adapter(features[0]))
        return {
            "imitation": Term(self.config.imitation, mse(eps_cond, teacher_cond)),
            "hint": Term(self.config.hint, mse(hinted, batch.teacher_features)),
            "anchor": Term(self.config.anchor, mse(eps_cond, batch.eps)),
        }
