"""Objectives: what a training step minimises, one short function each.

Every term is a per-sample mean square over C·H·W, (B,) float32; the step weights it by ŵ_t and its
coefficient and averages over the batch (arXiv:2606.00798 Eq. 4–7).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from dashdeploy.diffusion.denoiser import TorchDenoiser
from dashdeploy.recipe import schema
from dashdeploy.training.batches import Batch


@dataclass(frozen=True)
class Term:
    """One term of an objective: its coefficient and its per-sample value (B,)."""

    coefficient: float
    value: torch.Tensor


Terms = dict[str, Term]


def mse(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean square over C·H·W in float32: (B, C, H, W) twice -> (B,)."""
    return (prediction.float() - target.float()).square().flatten(1).mean(1)


def dash(student: TorchDenoiser, batch: Batch, config: schema.Dash) -> Terms:
    """Both branches on the same x_t and t, each supervised on its own (Eq. 4–6); no label dropout."""
    teacher_uncond, teacher_cond = batch.teacher_outputs()
    eps_uncond, eps_cond = student.branches(batch.x_t, batch.t, batch.y)
    return {
        "imitation": Term(config.imitation, mse(eps_cond, teacher_cond)),
        "unconditional": Term(config.unconditional, mse(eps_uncond, teacher_uncond)),
        "anchor": Term(config.anchor, mse(eps_cond, batch.eps)),
    }


def cond_only(student: TorchDenoiser, batch: Batch, config: schema.CondOnly) -> Terms:
    """The conditional branch alone: the control whose unconditional branch, and so its gap, is left to chance."""
    _, teacher_cond = batch.teacher_outputs()
    eps_cond = student(batch.x_t, batch.t, batch.y)
    return {
        "imitation": Term(config.imitation, mse(eps_cond, teacher_cond)),
        "anchor": Term(config.anchor, mse(eps_cond, batch.eps)),
    }


def denoise(student: TorchDenoiser, batch: Batch, config: schema.Scratch | schema.Teach) -> Terms:
    """Denoising with per-sample label dropout (Ho & Salimans 2022): how teachers and from-scratch students train."""
    dropped = batch.uniform < config.label_dropout
    y = torch.where(dropped, torch.full_like(batch.y, student.interface.null_class), batch.y)
    return {"denoise": Term(1.0, mse(student(batch.x_t, batch.t, y), batch.eps))}


OBJECTIVES: dict[str, Callable[..., Terms]] = {"dash": dash, "cond_only": cond_only, "scratch": denoise}
NEEDS_TEACHER: frozenset[str] = frozenset({"dash", "cond_only"})
