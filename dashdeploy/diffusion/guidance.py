"""Classifier-free guidance: the branch order, the combination, and guidance over time.

The stacked batch is [uncond, cond]; no other module knows this order.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from dashdeploy.errors import UserError
from dashdeploy.recipe.schema import Guidance, Tag

Predict = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def both_branches(
    predict: Predict, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor, *, null_class: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """(eps_uncond, eps_cond) from one forward pass over 2B.

    x: (B, C, H, W); t, y: (B,) int64; `predict` takes 2B of each. Slicing (not chunk) keeps B
    symbolic when this is exported to ONNX.
    """
    b = x.shape[0]
    labels = torch.cat([torch.full_like(y, null_class), y])
    eps = predict(torch.cat([x, x]), torch.cat([t, t]), labels)
    return eps[:b], eps[b:]


def combine(eps_uncond: torch.Tensor, eps_cond: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """eps_w = eps_uncond + w·(eps_cond − eps_uncond), in float32; w: (B,). w = 1 is off."""
    uncond, cond = eps_uncond.float(), eps_cond.float()
    return uncond + w.float().view(-1, 1, 1, 1) * (cond - uncond)


def weight(guidance: Guidance, t: float, num_train_timesteps: int) -> float:
    """Guidance scale at timestep t: a constant, or TAG (arXiv:2606.00798 Eq. 3)."""
    if isinstance(guidance, Tag):
        gate = 1.0 / (1.0 + math.exp(-guidance.beta * (0.5 - t / num_train_timesteps)))
        return guidance.w_min + (guidance.w_max - guidance.w_min) * gate
    return float(guidance)


def label(guidance: Guidance) -> str:
    """How tables and plots name it: ``w=2`` or ``TAG 1–4``."""
    if isinstance(guidance, Tag):
        return f"TAG {guidance.w_min:g}–{guidance.w_max:g}"
    return f"w={guidance:g}"


def parse(text: str) -> Guidance:
    """``"2.5"`` or ``"tag"``, as typed on a command line.

    Raises:
        UserError: neither of them.
    """
    if text.lower() == "tag":
        return Tag()
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0:
        raise UserError(f"guidance must be a number ≥ 0 (1 = off) or 'tag', not {text!r}")
    return value
