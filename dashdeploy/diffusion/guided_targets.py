"""What a one-branch student should predict: the guided teacher's output at t, or where its path from t ends.

Targets are worked out in x_0, clipped to [−1, 1] for images and not for latents, whatever the student's sampler clips,
and given as what the student predicts. A student may predict v from a teacher that predicts eps: x_0 of eps is divided
by √ᾱ, and what that makes of an error at high t is cut off by the clipping.
"""

from __future__ import annotations

import torch

from dashdeploy.diffusion import prediction as predictions
from dashdeploy.diffusion.denoiser import Denoiser
from dashdeploy.diffusion.prediction import Prediction

Tensor = torch.Tensor


def target(
    teacher: Denoiser,
    x_t: Tensor,
    t: Tensor,
    s: Tensor | None,
    y: Tensor,
    w: Tensor,
    *,
    steps: int,
    clip: bool,
    prediction: Prediction,
    via: Tensor | None = None,
) -> Tensor:
    """The student's target (B, C, H, W) float32 at (x_t, t, y, w).

    Args:
        x_t: (B, C, H, W) float32. t, y: (B,) int64. w: (B,) float32.
        s: (B,) int64, the timestep that a step of the student goes to; −1 is clean. None: with steps 0.
        steps: of the teacher from t to s. 0: the target is the guided output at t.
        via: (B,) int64, a timestep between t and s. The teacher makes `steps` steps to it, and as many from there.
        clip: the predicted x_0 to [−1, 1].
        prediction: of the student.
    """
    alpha_bar = _alpha_bar(teacher, t)
    if steps == 0 or s is None:
        x_0 = guided_x_0(teacher, x_t, t, y, w, clip=clip)
    else:
        x, now = x_t, t
        for after in (s,) if via is None else (via, s):
            x, now = path(teacher, x, now, after, y, w, steps=steps, clip=clip), after
        x_0 = x_0_that_lands(x_t, x, alpha_bar, _alpha_bar(teacher, s))
    return predictions.of(x_0, predictions.eps_of(x_0, x_t, alpha_bar), alpha_bar, prediction=prediction)


def guided_x_0(teacher: Denoiser, x: Tensor, t: Tensor, y: Tensor, w: Tensor, *, clip: bool) -> Tensor:
    """The guided teacher's x_0 of x at t, float32; the arguments as of `target`."""
    output = teacher.guided(x, t, y, w).float()
    x_0, _ = predictions.x_0_and_eps(output, x, _alpha_bar(teacher, t), prediction=teacher.interface.prediction)
    return x_0.clamp(-1, 1) if clip else x_0


def path(teacher: Denoiser, x: Tensor, t: Tensor, s: Tensor, y: Tensor, w: Tensor, *, steps: int, clip: bool) -> Tensor:
    """Where the guided teacher takes x from t to s by DPM-Solver++(2M) (arXiv:2211.01095, Algorithm 2), per image.

    Its timesteps are evenly spaced. The first step is of first order, and so is one to the clean image.
    """
    x_0_before, h_before = None, None
    for i in range(steps):
        now, after = _between(t, s, i, steps), _between(t, s, i + 1, steps)
        alpha_bar, next_bar = _alpha_bar(teacher, now), _alpha_bar(teacher, after)
        x_0 = guided_x_0(teacher, x, now, y, w, clip=clip)
        h = (_lambda(next_bar) - _lambda(alpha_bar)).float()
        d = x_0
        if x_0_before is not None and h_before is not None:
            second = (h / (2 * h_before)).where(h.isfinite() & h_before.isfinite(), torch.zeros_like(h))
            d = x_0 + second * (x_0 - x_0_before)
        ratio = ((1 - next_bar) / (1 - alpha_bar)).sqrt()
        moved = ratio * x - next_bar.sqrt() * torch.expm1(-h) * d
        # Few timesteps between t and s: a step may have nowhere to go.
        stays = (now == after).view(-1, 1, 1, 1)
        x = x.where(stays, moved)
        x_0_before, h_before = x_0, h.where(~stays, torch.full_like(h, torch.inf))
    return x


def x_0_that_lands(x_t: Tensor, x_s: Tensor, alpha_bar: Tensor, next_bar: Tensor) -> Tensor:
    """The x_0 whose DDIM step from x_t ends at x_s: x_s = (σ_s/σ_t)·x_t + (α_s − α_t·σ_s/σ_t)·x_0."""
    ratio = ((1 - next_bar) / (1 - alpha_bar)).sqrt()
    return (x_s - ratio * x_t) / (next_bar.sqrt() - alpha_bar.sqrt() * ratio)


def _between(t: Tensor, s: Tensor, i: int, steps: int) -> Tensor:
    """The i-th of `steps` + 1 evenly spaced timesteps from t to s."""
    return t + torch.div((s - t) * i, steps, rounding_mode="trunc")


def _alpha_bar(teacher: Denoiser, t: Tensor) -> Tensor:
    """ᾱ (B, 1, 1, 1) float32; of −1 it is 1."""
    return teacher.interface.schedule.alphas_cumprod_from_clean.to(t.device)[t + 1].view(-1, 1, 1, 1)


def _lambda(alpha_bar: Tensor) -> Tensor:
    """λ = log(α/σ), float64: ∞ of a clean image, −∞ at zero SNR."""
    alpha_bar = alpha_bar.double()
    return 0.5 * (alpha_bar.log() - torch.log1p(-alpha_bar))
