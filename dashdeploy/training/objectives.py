"""Objectives: the losses that a training step minimises, one short function each.

Every term is a mean square over C·H·W of each sample, (B,) float32. The step multiplies it by ŵ_t and by its
coefficient, and takes the mean over the batch (arXiv:2606.00798 Eq. 4–7).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from dashdeploy.diffusion import guidance
from dashdeploy.diffusion.denoiser import TorchDenoiser
from dashdeploy.recipe import objectives as sections
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


def dash(student: TorchDenoiser, batch: Batch, config: sections.Dash) -> Terms:
    """Both branches on the same x_t and t, each with a target (Eq. 4–6), and their gap; no label dropout."""
    teacher_uncond, teacher_cond = batch.teacher_outputs()
    eps_uncond, eps_cond = student.branches(batch.x_t, batch.t, batch.y)
    assert not isinstance(config.gap, str), "resolve() puts a number there"
    return {
        "imitation": Term(config.imitation, mse(eps_cond, teacher_cond)),
        "unconditional": Term(config.unconditional, mse(eps_uncond, teacher_uncond)),
        "anchor": Term(config.anchor, mse(eps_cond, batch.eps)),
        **({"gap": Term(config.gap, mse(eps_cond - eps_uncond, teacher_cond - teacher_uncond))} if config.gap else {}),
    }


def resolve(config: sections.Dash, guidance_scales: Sequence[float]) -> sections.Dash:
    """`gap: guidance` as a number: the mean of w(w − 1) over the scales in use.

    ‖e_w‖² = w‖e_cond‖² − (w − 1)‖e_uncond‖² + w(w − 1)‖e_Δ‖²: the guided error weighs the gap's by w(w − 1). The three
    weights are scaled to the sum of the first two, so that the learning rate means the same with and without.
    """
    if config.gap != "guidance":
        return config
    gap = sum(w * (w - 1) for w in guidance_scales) / len(guidance_scales)
    whole = config.imitation + config.unconditional
    scale = whole / (whole + gap)
    changed = {"imitation": config.imitation, "unconditional": config.unconditional, "gap": gap}
    return config.model_copy(update={name: scale * value for name, value in changed.items()})


def cond_only(student: TorchDenoiser, batch: Batch, config: sections.CondOnly) -> Terms:
    """Only the conditional branch: a control, which leaves the unconditional branch, and so the gap, to chance."""
    _, teacher_cond = batch.teacher_outputs()
    eps_cond = student(batch.x_t, batch.t, batch.y)
    return {
        "imitation": Term(config.imitation, mse(eps_cond, teacher_cond)),
        "anchor": Term(config.anchor, mse(eps_cond, batch.eps)),
    }


def fitnets(student: TorchDenoiser, batch: Batch, config: sections.FitNets) -> Terms:
    """Only the conditional branch has a target; both run, so that hints (hints.py) can be of both."""
    _, teacher_cond = batch.teacher_outputs()
    _, eps_cond = student.branches(batch.x_t, batch.t, batch.y)
    return {
        "imitation": Term(config.imitation, mse(eps_cond, teacher_cond)),
        "anchor": Term(config.anchor, mse(eps_cond, batch.eps)),
    }


def composite(student: TorchDenoiser, batch: Batch, config: sections.Composite) -> Terms:
    """One guided output at a fixed w."""
    return _guided(student, batch, torch.full_like(batch.uniform, config.w), anchor=config.anchor)


def multi_w(student: TorchDenoiser, batch: Batch, config: sections.MultiW) -> Terms:
    """The guided output at a w that is drawn for each sample."""
    w = config.w_min + (config.w_max - config.w_min) * batch.uniform
    return _guided(student, batch, w, anchor=config.anchor)


def _guided(student: TorchDenoiser, batch: Batch, w: torch.Tensor, *, anchor: float) -> Terms:
    eps_uncond, eps_cond = student.branches(batch.x_t, batch.t, batch.y)
    guided, target = guidance.combine(eps_uncond, eps_cond, w), guidance.combine(*batch.teacher_outputs(), w)
    return {"guided": Term(1.0, mse(guided, target)), "anchor": Term(anchor, mse(eps_cond, batch.eps))}


def gap_match(student: TorchDenoiser, batch: Batch, config: sections.GapMatch) -> Terms:
    """Only the gap has a target of the teacher's; the anchor holds the conditional branch."""
    teacher_uncond, teacher_cond = batch.teacher_outputs()
    eps_uncond, eps_cond = student.branches(batch.x_t, batch.t, batch.y)
    return {
        "gap": Term(config.gap, mse(eps_cond - eps_uncond, teacher_cond - teacher_uncond)),
        "anchor": Term(config.anchor, mse(eps_cond, batch.eps)),
    }


def shared_mask(student: TorchDenoiser, batch: Batch, config: sections.SharedMask) -> Terms:
    """One branch a sample, the same for teacher and student: output distillation under ordinary label dropout."""
    dropped = batch.uniform < config.label_dropout
    teacher_uncond, teacher_cond = batch.teacher_outputs()
    target = torch.where(dropped.view(-1, 1, 1, 1), teacher_uncond, teacher_cond)
    eps = student(batch.x_t, batch.t, _drop(batch.y, dropped, student))
    return {
        "imitation": Term(config.imitation, mse(eps, target)),
        "anchor": Term(config.anchor, mse(eps, batch.eps)),
    }


def single_head(student: TorchDenoiser, batch: Batch, config: sections.SingleHead) -> Terms:
    """The teacher's guided output as the student's conditional one (Meng et al. 2023, at one w): no guidance later."""
    target = guidance.combine(*batch.teacher_outputs(), torch.full_like(batch.uniform, config.w))
    return {"guided": Term(1.0, mse(student(batch.x_t, batch.t, batch.y), target))}


def denoise(student: TorchDenoiser, batch: Batch, config: sections.Scratch | schema.Teach) -> Terms:
    """Denoising with per-sample label dropout (Ho & Salimans 2022): how teachers and from-scratch students train."""
    y = _drop(batch.y, batch.uniform < config.label_dropout, student)
    return {"denoise": Term(1.0, mse(student(batch.x_t, batch.t, y), batch.eps))}


def _drop(y: torch.Tensor, dropped: torch.Tensor, student: TorchDenoiser) -> torch.Tensor:
    return torch.where(dropped, torch.full_like(y, student.interface.null_class), y)


OBJECTIVES: dict[str, Callable[..., Terms]] = {
    "dash": dash,
    "cond_only": cond_only,
    "fitnets": fitnets,
    "composite": composite,
    "multi_w": multi_w,
    "gap_match": gap_match,
    "shared_mask": shared_mask,
    "single_head": single_head,
    "scratch": denoise,
}
"""Kind -> function. With a hint, hints.py wraps it in a module, which has parameters that train too."""
NEEDS_TEACHER: frozenset[str] = frozenset(OBJECTIVES) - {"scratch"}
