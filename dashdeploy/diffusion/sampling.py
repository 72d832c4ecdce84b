"""Deterministic sampling over any Denoiser: DDIM (η = 0) and DPM-Solver++(2M), on the same timesteps."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from dashdeploy.diffusion import guidance, noise
from dashdeploy.diffusion.denoiser import Denoiser, Interface
from dashdeploy.errors import UserError
from dashdeploy.recipe.schema import Guidance, Sampling, Solver


@dataclass(frozen=True)
class Plan:
    """One sampler run, worked out: for each step its t, the t it goes to (−1: clean) and its guidance scale."""

    timesteps: tuple[int, ...]
    previous: tuple[int, ...]
    weights: tuple[float, ...]
    clip_sample: bool
    solver: Solver = "ddim"


class Sample(Protocol):
    """Draws images: noise (B, C, H, W) float32, y (B,) int64 -> (B, C, H, W) float32 in [−1, 1]."""

    def __call__(
        self, noise: torch.Tensor, y: torch.Tensor, run: Plan, /, *, on_step: Callable[[int], None] | None = None
    ) -> torch.Tensor: ...


class Sampler(Sample, Protocol):
    """Draws images, and says how."""

    def way(self, run: Plan, /, batch_size: int | None = None) -> str:
        """Which of its graphs this plan runs on; batch_size None: a large one."""
        ...


def timesteps(num_inference_steps: int, num_train_timesteps: int, spacing: str) -> list[int]:
    """Descending timesteps; leading, trailing and linspace as in Lin et al. 2024 (arXiv:2305.08891), Table 2."""
    n, total = num_inference_steps, num_train_timesteps
    if n > total:
        raise UserError(f"num_inference_steps {n} exceeds the {total} timesteps of the noise schedule")
    if spacing == "linspace":
        steps = np.linspace(0, total - 1, n).round()[::-1]
    elif spacing == "leading":
        steps = (np.arange(n) * (total // n))[::-1].astype(float)
    else:
        steps = np.round(np.arange(total, 0, -total / n))[:n] - 1
    return [int(s) for s in steps]


def plan(config: Sampling, num_train_timesteps: int, *, scale: Guidance | None = None) -> Plan:
    """Work out a sampler run; `scale` replaces the configuration's guidance."""
    scale = config.guidance if scale is None else scale
    steps = timesteps(config.num_inference_steps, num_train_timesteps, config.timestep_spacing)
    return Plan(
        timesteps=tuple(steps),
        previous=(*steps[1:], -1),
        weights=tuple(guidance.weight(scale, t, num_train_timesteps) for t in steps),
        clip_sample=config.clip_sample,
        solver=config.solver,
    )


def ddim_step(
    x: torch.Tensor, eps: torch.Tensor, alpha_bar: torch.Tensor, alpha_bar_prev: torch.Tensor, *, clip_sample: bool
) -> torch.Tensor:
    """One update with η = 0 (Song et al. 2021 Eq. 12): x_t -> x_{t_prev}.

    With clip_sample, the predicted x_0 is clipped to [−1, 1] and eps recomputed from it, so that
    both terms of the update agree.
    """
    x_0 = (x - (1 - alpha_bar).sqrt() * eps) / alpha_bar.sqrt()
    if clip_sample:
        x_0 = x_0.clamp(-1, 1)
        eps = (x - alpha_bar.sqrt() * x_0) / (1 - alpha_bar).sqrt()
    return alpha_bar_prev.sqrt() * x_0 + (1 - alpha_bar_prev).sqrt() * eps


@torch.no_grad()
def ddim(
    denoiser: Denoiser,
    noise: torch.Tensor,
    y: torch.Tensor,
    run: Plan,
    *,
    on_step: Callable[[int], None] | None = None,
) -> torch.Tensor:
    """Images in [−1, 1] (clipped) from noise (B, C, H, W) float32 and labels y (B,) int64.

    A step whose guidance scale is 1 needs the conditional branch alone and runs only that.
    """
    alphas_cumprod = _with_clean(denoiser).to(noise.device)

    def update(x: torch.Tensor, eps: torch.Tensor, now: int, previous: int) -> torch.Tensor:
        return ddim_step(x, eps, alphas_cumprod[now], alphas_cumprod[previous], clip_sample=run.clip_sample)

    return _loop(denoiser, noise, y, run, update, on_step)


@torch.no_grad()
def dpmpp_2m(
    denoiser: Denoiser,
    noise: torch.Tensor,
    y: torch.Tensor,
    run: Plan,
    *,
    on_step: Callable[[int], None] | None = None,
) -> torch.Tensor:
    """As `ddim`, by DPM-Solver++(2M), of second order (Lu et al. 2022, arXiv:2211.01095, Algorithm 2).

    It too makes one prediction a step. The first step is of first order, which is DDIM's, and so is a step to the clean
    image: λ is ∞ there, and no second order exists. (The authors do that below 15 steps; their runs end before λ = ∞.)
    With clip_sample the predicted x_0 is clipped to [−1, 1] before it is extrapolated.
    """
    alphas_cumprod = _with_clean(denoiser).double()
    alpha, sigma = alphas_cumprod.sqrt().tolist(), (1 - alphas_cumprod).sqrt().tolist()
    x_0_before: torch.Tensor | None = None
    h_before = math.nan

    def update(x: torch.Tensor, eps: torch.Tensor, now: int, previous: int) -> torch.Tensor:
        nonlocal x_0_before, h_before
        x_0 = (x - sigma[now] * eps) / alpha[now]
        if run.clip_sample:
            x_0 = x_0.clamp(-1, 1)
        # λ = log(α/σ); h is the step in it (Section 3).
        clean = sigma[previous] == 0
        h = math.inf if clean else math.log(alpha[previous] / sigma[previous]) - math.log(alpha[now] / sigma[now])
        # Algorithm 2, line 9: D = (1 + 1/2r) x_0 − 1/2r x_0_before, r = h_before / h.
        d = x_0 if clean or x_0_before is None else x_0 + h / (2 * h_before) * (x_0 - x_0_before)
        x_0_before, h_before = x_0, h
        # Line 10; at h = ∞ the clean image is D itself.
        return sigma[previous] / sigma[now] * x - alpha[previous] * math.expm1(-h) * d

    return _loop(denoiser, noise, y, run, update, on_step)


def _loop(
    denoiser: Denoiser,
    noise: torch.Tensor,
    y: torch.Tensor,
    run: Plan,
    update: Callable[[torch.Tensor, torch.Tensor, int, int], torch.Tensor],
    on_step: Callable[[int], None] | None,
) -> torch.Tensor:
    """A prediction and then `update(x, eps, t, previous t)` at every step; the last image, clipped."""
    x = noise
    for i, (now, previous, w) in enumerate(zip(run.timesteps, run.previous, run.weights, strict=True)):
        x = update(x, predict(denoiser, x, y, t=now, w=w), now, previous)
        if on_step is not None:
            on_step(i)
    return x.clamp(-1, 1)


def _with_clean(denoiser: Denoiser) -> torch.Tensor:
    """The schedule's alphas_cumprod (T + 1,), the clean image's 1 at index −1."""
    return torch.cat([denoiser.interface.schedule.alphas_cumprod, torch.ones(1)])


def predict(denoiser: Denoiser, x: torch.Tensor, y: torch.Tensor, *, t: int, w: float) -> torch.Tensor:
    """Guided eps; where the guidance scale is 1 the conditional branch is all that is needed, and only that runs."""
    steps = torch.full_like(y, t)
    if w == 1.0:
        return denoiser(x, steps, y)
    return denoiser.guided(x, steps, y, torch.full(y.shape, w, dtype=torch.float32, device=y.device))


SOLVERS = {"ddim": ddim, "dpmpp_2m": dpmpp_2m}
"""Every `Solver` of recipes."""


def solve(
    denoiser: Denoiser,
    noise: torch.Tensor,
    y: torch.Tensor,
    run: Plan,
    *,
    on_step: Callable[[int], None] | None = None,
) -> torch.Tensor:
    """Images by the plan's solver; see `ddim`."""
    return SOLVERS[run.solver](denoiser, noise, y, run, on_step=on_step)


class HostLoop:
    """The Sampler of any Denoiser: `solve`."""

    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser = denoiser

    def __call__(
        self, noise: torch.Tensor, y: torch.Tensor, run: Plan, *, on_step: Callable[[int], None] | None = None
    ) -> torch.Tensor:
        return solve(self.denoiser, noise, y, run, on_step=on_step)

    def way(self, run: Plan, batch_size: int | None = None) -> str:
        return "guided"


def generate(
    sample: Sample,
    interface: Interface,
    run: Plan,
    *,
    labels: torch.Tensor,
    seed: int,
    batch_size: int,
    device: torch.device | str = "cpu",
    on_step: Callable[[int], None] | None = None,
) -> torch.Tensor:
    """(N, C, H, W) uint8 images of `labels` (N,); image i starts from `noise.normal(seed, i, …)` in any batch."""
    interface.check_labels(labels)
    out = []
    for start in range(0, len(labels), batch_size):
        y = labels[start : start + batch_size].to(device)
        drawn = initial_noise(seed, start, len(y), interface.image_shape).to(device)
        out.append(to_uint8(sample(drawn, y, run, on_step=on_step)).cpu())
    return torch.cat(out)


def initial_noise(seed: int, first: int, count: int, image_shape: tuple[int, int, int]) -> torch.Tensor:
    """(count, C, H, W) float32 standard normal noise of the images first … first + count − 1; see `noise.normal`."""
    drawn = noise.normal(seed, first, count, math.prod(image_shape))
    return torch.from_numpy(drawn).view(count, *image_shape)


def to_uint8(images: torch.Tensor) -> torch.Tensor:
    """[−1, 1] float -> 0..255 uint8, rounded to nearest."""
    return ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
