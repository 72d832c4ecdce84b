"""Deterministic samplers over any Denoiser: DDIM (η = 0) and DPM-Solver++(2M), on the same timesteps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch

from dashdeploy.diffusion import guidance, noise
from dashdeploy.diffusion.denoiser import Denoiser, Interface
from dashdeploy.errors import UserError
from dashdeploy.recipe.schema import Guidance, Sampling, Solver

CLEAN = -1
"""The timestep of the clean image, where ᾱ = 1."""


class Step(NamedTuple):
    """One step of a sampler: from timestep t to t_prev, with guidance scale w."""

    t: int
    t_prev: int
    w: float


@dataclass(frozen=True)
class Plan:
    """What a sampler does: its timesteps (descending), the guidance scale at each, and where the last step ends."""

    timesteps: tuple[int, ...]
    weights: tuple[float, ...]
    clip_sample: bool
    solver: Solver = "ddim"
    end: int = CLEAN

    def steps(self) -> Iterator[Step]:
        """The steps in order."""
        return map(Step, self.timesteps, (*self.timesteps[1:], self.end), self.weights)


class Sample(Protocol):
    """Draws images: noise (B, C, H, W) float32, y (B,) int64 -> (B, C, H, W) float32 in [−1, 1]."""

    def __call__(
        self, noise: torch.Tensor, y: torch.Tensor, plan: Plan, /, *, on_step: Callable[[int], None] | None = None
    ) -> torch.Tensor: ...


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
    """The plan of a recipe's sampling section; `scale` replaces its guidance."""
    scale = config.guidance if scale is None else scale
    steps = timesteps(config.num_inference_steps, num_train_timesteps, config.timestep_spacing)
    return Plan(
        timesteps=tuple(steps),
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
    plan: Plan,
    *,
    on_step: Callable[[int], None] | None = None,
) -> torch.Tensor:
    """DDIM with η = 0 (Song et al. 2021): images (B, C, H, W) in [−1, 1] from noise of that shape and labels y (B,).

    on_step is called with the number of each step that is done, from 0.
    """
    alpha_bar = denoiser.interface.schedule.alphas_cumprod_from_clean.to(noise.device)
    x = noise
    for i, (t, t_prev, w) in enumerate(plan.steps()):
        eps = predict(denoiser, x, t, y, w)
        x = ddim_step(x, eps, alpha_bar[t + 1], alpha_bar[t_prev + 1], clip_sample=plan.clip_sample)
        if on_step is not None:
            on_step(i)
    return x.clamp(-1, 1)


@torch.no_grad()
def dpmpp_2m(
    denoiser: Denoiser,
    noise: torch.Tensor,
    y: torch.Tensor,
    plan: Plan,
    *,
    on_step: Callable[[int], None] | None = None,
) -> torch.Tensor:
    """DPM-Solver++(2M), of second order (Lu et al. 2022, arXiv:2211.01095, Algorithm 2); arguments as of `ddim`.

    It makes one prediction a step, as DDIM does. The first step is of first order, which is DDIM's, and so is the step
    to the clean image: λ is ∞ there, and no second order exists. (The authors do that below 15 steps; their
    trajectories end before λ = ∞.) With clip_sample the predicted x_0 is clipped to [−1, 1] before it is extrapolated.
    """
    alpha_bar = denoiser.interface.schedule.alphas_cumprod_from_clean.double()
    alphas, sigmas = alpha_bar.sqrt().tolist(), (1 - alpha_bar).sqrt().tolist()
    x, x_0_before, h_before = noise, None, math.nan
    for i, (t, t_prev, w) in enumerate(plan.steps()):
        (alpha, sigma), (alpha_prev, sigma_prev) = ((alphas[s + 1], sigmas[s + 1]) for s in (t, t_prev))
        x_0 = (x - sigma * predict(denoiser, x, t, y, w)) / alpha
        if plan.clip_sample:
            x_0 = x_0.clamp(-1, 1)
        # λ = log(α/σ); h is the step in it (Section 3).
        clean = sigma_prev == 0
        h = math.inf if clean else math.log(alpha_prev / sigma_prev) - math.log(alpha / sigma)
        # Line 9: D = (1 + 1/2r)·x_0 − 1/2r·x_0_before, r = h_before/h.
        d = x_0 if clean or x_0_before is None else x_0 + h / (2 * h_before) * (x_0 - x_0_before)
        # Line 10; at h = ∞ the clean image is D itself.
        x = sigma_prev / sigma * x - alpha_prev * math.expm1(-h) * d
        x_0_before, h_before = x_0, h
        if on_step is not None:
            on_step(i)
    return x.clamp(-1, 1)


SOLVERS = {"ddim": ddim, "dpmpp_2m": dpmpp_2m}
"""Every `Solver` of recipes."""


def predict(denoiser: Denoiser, x: torch.Tensor, t: int, y: torch.Tensor, w: float) -> torch.Tensor:
    """Guided eps at one timestep; where w is 1 (off) only the conditional branch runs."""
    steps = torch.full_like(y, t)
    if w == 1.0:
        return denoiser(x, steps, y)
    return denoiser.guided(x, steps, y, torch.full(y.shape, w, dtype=torch.float32, device=y.device))


def generate(
    sample: Sample,
    interface: Interface,
    plan: Plan,
    *,
    labels: torch.Tensor,
    seed: int,
    batch_size: int,
    device: torch.device | str = "cpu",
    on_step: Callable[[int], None] | None = None,
) -> torch.Tensor:
    """(N, C, H, W) uint8 images of `labels` (N,); image i starts from `noise.normal(seed, i, …)` in any batch."""
    interface.check_labels(labels)
    images = []
    for start in range(0, len(labels), batch_size):
        y = labels[start : start + batch_size].to(device)
        drawn = initial_noise(seed, start, len(y), interface.image_shape).to(device)
        images.append(to_uint8(sample(drawn, y, plan, on_step=on_step)).cpu())
    return torch.cat(images)


def initial_noise(seed: int, first: int, count: int, image_shape: tuple[int, int, int]) -> torch.Tensor:
    """(count, C, H, W) float32 standard normal noise of the images first … first + count − 1; see `noise.normal`."""
    drawn = noise.normal(seed, first, count, math.prod(image_shape))
    return torch.from_numpy(drawn).view(count, *image_shape)


def to_uint8(images: torch.Tensor) -> torch.Tensor:
    """[−1, 1] float -> 0..255 uint8, rounded to nearest."""
    return ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
