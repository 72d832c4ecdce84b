"""Classifier-free guidance: the branch order, the combination, and guidance over time.

The stacked batch is [uncond, cond]; no other module knows this order.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from dashdeploy.errors import UserError
from dashdeploy.fields import MOST_SCALE
from dashdeploy.recipe.schema import Guidance, GuidanceInterval, Tag

Predict = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def stack(
    x: torch.Tensor, t: torch.Tensor, y: torch.Tensor, *, null_class: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Both branches as one batch: x (B, C, H, W) and t, y (B,) int64 -> the same with 2B in place of B."""
    return torch.cat([x, x]), torch.cat([t, t]), torch.cat([torch.full_like(y, null_class), y])


def split(stacked: torch.Tensor, batch_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(uncond, cond), (B, …) each, of what a forward over the stacked batch gave anywhere in the network: (2B, …).

    Slicing (not chunk) keeps B symbolic when this is exported to ONNX.
    """
    return stacked[:batch_size], stacked[batch_size:]


def both_branches(
    predict: Predict, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor, *, null_class: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """(uncond, cond) from one call of `predict` over 2B; arguments as of `stack`."""
    return split(predict(*stack(x, t, y, null_class=null_class)), x.shape[0])


def by_branch(stacked: torch.Tensor) -> torch.Tensor:
    """What a forward over the stacked batch gave, by image: (2B, …) -> (B, 2, …), uncond before cond."""
    return torch.stack(split(stacked, stacked.shape[0] // 2), dim=1)


def combine(uncond: torch.Tensor, cond: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """uncond + w·(cond − uncond); w: (B,). w = 1 is off. The predictions may be eps, v or x_0.

    Half precision is combined in float32: the difference is small beside either branch.
    """
    dtype = torch.promote_types(uncond.dtype, torch.float32)
    uncond, cond = uncond.to(dtype), cond.to(dtype)
    return uncond + w.to(dtype).view(-1, 1, 1, 1) * (cond - uncond)


def weight(guidance: Guidance, t: float, num_train_timesteps: int) -> float:
    """Guidance scale at timestep t: a constant, TAG (arXiv:2606.00798 Eq. 3), or an interval (arXiv:2404.07724)."""
    if isinstance(guidance, GuidanceInterval):
        return guidance.w if guidance.low <= t / num_train_timesteps < guidance.high else 1.0
    if isinstance(guidance, Tag):
        gate = 1.0 / (1.0 + math.exp(-guidance.beta * (0.5 - t / num_train_timesteps)))
        return guidance.w_min + (guidance.w_max - guidance.w_min) * gate
    return float(guidance)


def label(guidance: Guidance) -> str:
    """How tables and plots name it: ``w=2``, ``TAG 1–4``, or ``w=3 in 0.2–0.8``."""
    if isinstance(guidance, GuidanceInterval):
        return f"w={guidance.w:g} in {guidance.low:g}–{guidance.high:g}"
    if isinstance(guidance, Tag):
        return f"TAG {guidance.w_min:g}–{guidance.w_max:g}"
    return f"w={guidance:g}"


def parse(text: str) -> Guidance:
    """``"2.5"``, ``"tag"`` or ``"3@0.2-0.8"`` (w = 3 where 0.2 ≤ t/T < 0.8), as typed on a command line.

    Raises:
        UserError: none of them.
    """
    if text.lower() == "tag":
        return Tag()
    scale, at, span = text.partition("@")
    low, dash, high = span.partition("-")
    try:
        w = float(scale)
        if not 0 <= w <= MOST_SCALE or bool(at) != bool(dash):
            raise ValueError
        return GuidanceInterval(w=w, low=float(low), high=float(high)) if at else w
    except ValueError:
        raise UserError(
            f"guidance must be a number from 0 to {MOST_SCALE:,} (1 = off), 'tag', or an interval as in 3@0.2-0.8 "
            f"(shares of the noise levels, low < high), not {text!r}"
        ) from None
