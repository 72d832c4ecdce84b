"""Samplers over any Denoiser, on the same timesteps: DDIM (η = 0), DPM-Solver++(2M) and the consistency sampler."""

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
from dashdeploy.diffusion.grids import CLEAN as CLEAN
from dashdeploy.diffusion.grids import Grid
from dashdeploy.diffusion.pixels import to_uint8
from dashdeploy.diffusion.prediction import Prediction, eps_of, x_0_and_eps
from dashdeploy.errors import UserError
from dashdeploy.fields import MOST_SCALE
from dashdeploy.recipe.schema import Guidance, Sampling, Solver


class Step(NamedTuple):
    """One step of a sampler: from timestep t to t_prev, with guidance scale w."""

    t: int
    t_prev: int
    w: float


@dataclass(frozen=True)
class Plan:
    """What a sampler does: its timesteps (descending), the guidance scale at each, and where the last step ends.

    Raises:
        UserError: not one guidance scale from 0 to MOST_SCALE for each timestep, timesteps that do not descend, or
            steps of the solver consistency that do not end at the clean image.
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
        if self.solver == "consistency" and self.end != CLEAN:
            raise UserError(f"the solver consistency ends at {CLEAN}, the clean image; got {self.end}")
        if len(self.weights) != len(self.timesteps):
            raise UserError(f"{len(self.weights)} guidance scales for {len(self.timesteps)} steps; give one for each")
        if bad := [w for w in self.weights if not 0 <= w <= MOST_SCALE]:
            raise UserError(f"guidance must be a number from 0 to {MOST_SCALE:g} (1 = off), not {bad[0]:g}")

    def steps(self) -> Iterator[Step]:
        """The steps in order; those of the solver consistency go to the clean image, see `renoise`."""
        count, fresh = len(self.timesteps), self.solver == "consistency"
        after = (CLEAN,) * count if fresh else (*self.timesteps[1:], self.end)
        return map(Step, self.timesteps, after, self.weights)

    def start(self, noise: torch.Tensor) -> torch.Tensor:
        """x (B, C, H, W) at the first timestep, of noise as `Sample` takes it."""
        return noise[:, 0] if self.solver == "consistency" else noise

    def move(
        self, x: torch.Tensor, output: torch.Tensor, t: int, t_prev: int, bars: torch.Tensor, *, prediction: Prediction
    ) -> torch.Tensor:
        """`ddim_step` of x (B, C, H, W) from t to t_prev, clipped as the plan says; bars: alpha_bar of `renoise`."""
        now, after = bars[t + 1], bars[t_prev + 1]
        return ddim_step(x, output, now, after, clip_sample=self.clip_sample, prediction=prediction)

    def renoise(self, x: torch.Tensor, i: int, noise: torch.Tensor, alpha_bar: torch.Tensor) -> torch.Tensor:
        """x (B, C, H, W) after step i, from 0, as step i + 1 takes it.

        Of the solver consistency it is √ᾱ·x + √(1 − ᾱ)·noise[:, i + 1] at that timestep (Song et al. 2023,
        arXiv:2303.01469, Algorithm 1); of others, and after the last step, x.

        Args:
            alpha_bar: the schedule's `alphas_cumprod_from_clean`, on x's device.
        """
        if self.solver != "consistency" or i + 1 == len(self.timesteps):
            return x
        now = alpha_bar[self.timesteps[i + 1] + 1]
        return now.sqrt() * x + (1 - now).sqrt() * noise[:, i + 1]


class Sample(Protocol):
    """Draws samples: noise (B, C, H, W) float32, y (B,) int64 -> (B, C, H, W) float32.

    The solver consistency takes noise (B, N, C, H, W), for each of N steps its own; see `Interface.noise_shape`. With
    plan.clip_sample they are within [−1, 1]; without it nothing bounds them.
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

    Show it the network's output rather than x: clipping the predicted x_0 turns an infinite output into a finite x.
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


def plan(
    config: Sampling, num_train_timesteps: int, *, scale: Guidance | None = None, grids: tuple[Grid, ...] = ()
) -> Plan:
    """The plan of a recipe's sampling section; `scale` replaces its guidance.

    Args:
        grids: of a few-step student, whose timesteps are taken in place of spaced ones. If it has none of so many
            steps, the plan is of spaced ones, and `Interface.check_plan` refuses it.
    """
    scale = config.guidance if scale is None else scale
    few = next((grid for grid in grids if len(grid) == config.num_inference_steps), None)
    steps = few or timesteps(config.num_inference_steps, num_train_timesteps, config.timestep_spacing)
    return Plan(
        timesteps=tuple(steps),
        weights=tuple(guidance.weight(scale, t, num_train_timesteps) for t in steps),
        clip_sample=config.clip_sample,
        solver=config.solver,
    )


def ddim_step(
    x: torch.Tensor,
    output: torch.Tensor,
    alpha_bar: torch.Tensor,
    alpha_bar_prev: torch.Tensor,
    *,
    clip_sample: bool,
    prediction: Prediction,
) -> torch.Tensor:
    """One update with η = 0 (Song et al. 2021 Eq. 12): x_t -> x_{t_prev}, from what the network predicted.

    With clip_sample, the predicted x_0 is clipped to [−1, 1] and eps recomputed from it, so that
    both terms of the update agree.
    """
    x_0, eps = x_0_and_eps(output, x, alpha_bar, prediction=prediction)
    if clip_sample:
        x_0 = x_0.clamp(-1, 1)
        eps = eps_of(x_0, x, alpha_bar)
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

    Where plan.solver is consistency, it is the multistep consistency sampler (Song et al. 2023, arXiv:2303.01469,
    Algorithm 1): each step goes to x_0 at once, and `Plan.renoise` takes that to the next timestep.
    on_step is called with the number of each step that is done, from 0.
    """
    interface = denoiser.interface
    interface.check_plan(plan)
    interface.check_start(noise, y, plan)
    watch = Watch(plan)
    alpha_bar = interface.schedule.alphas_cumprod_from_clean.to(noise.device)
    x = plan.start(noise)
    for i, (t, t_prev, w) in enumerate(plan.steps()):
        output = predict(denoiser, x, t, y, w)
        watch.see(output)
        x = plan.move(x, output, t, t_prev, alpha_bar, prediction=interface.prediction)
        x = plan.renoise(x, i, noise, alpha_bar)
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
    interface = denoiser.interface
    interface.check_plan(plan)
    interface.check_start(noise, y, plan)
    watch = Watch(plan)
    alpha_bar = interface.schedule.alphas_cumprod_from_clean
    alphas, sigmas = alpha_bar.double().sqrt().tolist(), (1 - alpha_bar.double()).sqrt().tolist()
    alpha_bar = alpha_bar.to(noise)
    x, x_0_before, h_before = noise, None, math.nan
    for i, (t, t_prev, w) in enumerate(plan.steps()):
        (alpha, sigma), (alpha_prev, sigma_prev) = ((alphas[s + 1], sigmas[s + 1]) for s in (t, t_prev))
        output = predict(denoiser, x, t, y, w)
        watch.see(output)
        x_0, _ = x_0_and_eps(output, x, alpha_bar[t + 1], prediction=interface.prediction)
        if plan.clip_sample:
            x_0 = x_0.clamp(-1, 1)
        # λ = log(α/σ); h is the step in it (Section 3), ∞ to the clean image and from zero SNR.
        clean = sigma_prev == 0
        h = math.inf if clean or alpha == 0 else math.log(alpha_prev / sigma_prev) - math.log(alpha / sigma)
        # Line 9: D = (1 + 1/2r)·x_0 − 1/2r·x_0_before, r = h_before/h; after a step from zero SNR it is x_0.
        d = x_0 if clean or x_0_before is None else x_0 + h / (2 * h_before) * (x_0 - x_0_before)
        # Line 10; at h = ∞ the clean image is D itself.
        x = sigma_prev / sigma * x - alpha_prev * math.expm1(-h) * d
        x_0_before, h_before = x_0, h
        if on_step is not None:
            on_step(i)
    watch.end()
    return x


SOLVERS = {"ddim": ddim, "dpmpp_2m": dpmpp_2m, "consistency": ddim}
"""Every `Solver` of recipes."""


def predict(denoiser: Denoiser, x: torch.Tensor, t: int, y: torch.Tensor, w: float) -> torch.Tensor:
    """The guided prediction at one timestep; where w is 1 (off) only the conditional branch runs."""
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
    interface.check_images()
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
    first: int = 0,
    device: torch.device | str = "cpu",
    on_step: Callable[[int], None] | None = None,
) -> Iterator[torch.Tensor]:
    """The samples of `labels` (N,) int64 on the CPU, batch by batch: (B, C, H, W) on `device`, see `Sample`.

    Args:
        first: number of the first image; its noise depends on it.

    Raises:
        UserError: a label, seed or batch size out of range, or as `Sample`.
    """
    interface.check_labels(labels)
    if not 0 <= seed < noise.SEEDS or batch_size < 1:
        raise UserError(f"expected 0 ≤ seed < 2^64 and batch_size ≥ 1; got {seed} and {batch_size}")
    for start in range(0, len(labels), batch_size):
        y = labels[start : start + batch_size].to(device)
        drawn = initial_noise(seed, first + start, len(y), interface.noise_shape(plan))
        yield sample(drawn.to(device), y, plan, on_step=on_step)


def initial_noise(seed: int, first: int, count: int, shape: tuple[int, ...]) -> torch.Tensor:
    """(count, *shape) float32 standard normal noise of the images first … first + count − 1; see `noise.normal`.

    Args:
        shape: `Interface.noise_shape`: (C, H, W), or (N, C, H, W).
    """
    *steps, channels, height, width = shape
    drawn = noise.normal(seed, first, count, channels * height * width, steps=math.prod(steps))
    return torch.from_numpy(drawn).view(count, *shape)
