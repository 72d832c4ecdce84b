"""Deterministic samplers over any Denoiser: DDIM (η = 0) and DPM-Solver++(2M), on the same timesteps."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch

from dashdeploy.diffusion import guidance, noise
from dashdeploy.diffusion.denoiser import Denoiser, Interface
from dashdeploy.errors import UserError
from dashdeploy.fields import MOST_SCALE
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
    """What a sampler does: its timesteps (descending), the guidance scale at each, and where the last step ends.

    Raises:
        UserError: not one guidance scale from 0 to MOST_SCALE for each timestep, or timesteps that do not descend.
    """

    timesteps: tuple[int, ...]
    weights: tuple[float, ...]
    clip_sample: bool
    solver: Solver = "ddim"
    end: int = CLEAN

    def __post_init__(self) -> None:
        path = (*self.timesteps, self.end)
        if len(path) < 2 or any(now <= after for now, after in itertools.pairwise(path)) or self.end < CLEAN:
            raise UserError(f"timesteps must descend to {CLEAN} or more; got {list(path)[:12]}")
        if len(self.weights) != len(self.timesteps):
            raise UserError(f"{len(self.weights)} guidance scales for {len(self.timesteps)} steps; give one for each")
        if bad := [w for w in self.weights if not 0 <= w <= MOST_SCALE]:
            raise UserError(f"guidance must be a number from 0 to {MOST_SCALE:g} (1 = off), not {bad[0]:g}")

    def steps(self) -> Iterator[Step]:
        """The steps in order."""
        return map(Step, self.timesteps, (*self.timesteps[1:], self.end), self.weights)


class Sample(Protocol):
    """Draws samples: noise (B, C, H, W) float32, y (B,) int64 -> (B, C, H, W) float32.

    With plan.clip_sample they are within [−1, 1]; without it nothing bounds them.
    """

    def __call__(
        self, noise: torch.Tensor, y: torch.Tensor, plan: Plan, /, *, on_step: Callable[[int], None] | None = None
    ) -> torch.Tensor:
        """Draw.

        Raises:
            UserError: labels or noise that no sampler can start from, or a step whose values are not finite.
        """
        ...


class Watch:
    """Whether what each step gave is finite. A device is waited for at the end only.

    Show it eps rather than x: clipping the predicted x_0 turns an infinite eps into a finite x.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._sums: list[torch.Tensor] = []

    def see(self, values: torch.Tensor) -> None:
        """What the next step's network or graph gave: (B, …)."""
        self._sums.append((values * 0).sum())  # 0, or NaN: cheaper than isfinite().all()

    def end(self) -> None:
        """Look at all of them.

        Raises:
            UserError: it names the first step with NaN or Inf.
        """
        finite = (torch.stack(self._sums) == 0).tolist()
        if all(finite):
            return
        i = finite.index(False)
        t, w = self.plan.timesteps[i], self.plan.weights[i]
        raise UserError(
            f"step {i + 1} of {len(finite)} (t = {t}, w = {w:g}): the network gave NaN or Inf. Look at the loss of its "
            "training; try a smaller guidance scale, or fp32 where it computes in less."
        )


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
    """DDIM with η = 0 (Song et al. 2021): samples (B, C, H, W) from noise and labels, see `Sample`.

    on_step is called with the number of each step that is done, from 0.
    """
    denoiser.interface.check_start(noise, y)
    watch = Watch(plan)
    alpha_bar = denoiser.interface.schedule.alphas_cumprod_from_clean.to(noise.device)
    x = noise
    for i, (t, t_prev, w) in enumerate(plan.steps()):
        eps = predict(denoiser, x, t, y, w)
        watch.see(eps)
        x = ddim_step(x, eps, alpha_bar[t + 1], alpha_bar[t_prev + 1], clip_sample=plan.clip_sample)
        if on_step is not None:
            on_step(i)
    watch.end()
    return x


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
    denoiser.interface.check_start(noise, y)
    watch = Watch(plan)
    alpha_bar = denoiser.interface.schedule.alphas_cumprod_from_clean.double()
    alphas, sigmas = alpha_bar.sqrt().tolist(), (1 - alpha_bar).sqrt().tolist()
    x, x_0_before, h_before = noise, None, math.nan
    for i, (t, t_prev, w) in enumerate(plan.steps()):
        (alpha, sigma), (alpha_prev, sigma_prev) = ((alphas[s + 1], sigmas[s + 1]) for s in (t, t_prev))
        eps = predict(denoiser, x, t, y, w)
        watch.see(eps)
        x_0 = (x - sigma * eps) / alpha
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
    watch.end()
    return x


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
    """(N, C, H, W) uint8 images of `labels` (N,); image i starts from `noise.normal(seed, i, …)` in any batch.

    Values past [−1, 1] saturate.

    Raises:
        UserError: the samples are latents, or as `draw`.
    """
    if not interface.makes_images:
        raise UserError(
            f"the model makes latents {interface.image_shape} (C, H, W), not images, and nothing here decodes them. "
            "Put the network into diffusers' DiTPipeline, or take the latents themselves: dashdeploy.open(…).sample(…)."
        )
    batches = draw(
        sample, interface, plan, labels=labels, seed=seed, batch_size=batch_size, device=device, on_step=on_step
    )
    return torch.cat([to_uint8(batch).cpu() for batch in batches])


def draw(
    sample: Sample,
    interface: Interface,
    plan: Plan,
    *,
    labels: torch.Tensor,
    seed: int,
    batch_size: int,
    device: torch.device | str = "cpu",
    on_step: Callable[[int], None] | None = None,
) -> Iterator[torch.Tensor]:
    """The samples of `labels` (N,) int64 on the CPU, batch by batch: (B, C, H, W) on `device`, see `Sample`.

    Raises:
        UserError: a label, seed or batch size out of range, or as `Sample`.
    """
    interface.check_labels(labels)
    if not 0 <= seed < noise.SEEDS or batch_size < 1:
        raise UserError(f"expected 0 ≤ seed < 2^64 and batch_size ≥ 1; got {seed} and {batch_size}")
    for start in range(0, len(labels), batch_size):
        y = labels[start : start + batch_size].to(device)
        yield sample(initial_noise(seed, start, len(y), interface.image_shape).to(device), y, plan, on_step=on_step)


def initial_noise(seed: int, first: int, count: int, image_shape: tuple[int, int, int]) -> torch.Tensor:
    """(count, C, H, W) float32 standard normal noise of the images first … first + count − 1; see `noise.normal`."""
    drawn = noise.normal(seed, first, count, math.prod(image_shape))
    return torch.from_numpy(drawn).view(count, *image_shape)


def to_uint8(images: torch.Tensor) -> torch.Tensor:
    """[−1, 1] float -> 0..255 uint8, rounded to nearest; values past the range saturate."""
    return ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
