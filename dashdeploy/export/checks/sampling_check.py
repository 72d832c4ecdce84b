"""The cond, step and sampler graphs against torch from the same noise: each step by itself, and the final images."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from dashdeploy import seeds
from dashdeploy.diffusion import guidance
from dashdeploy.diffusion.denoiser import Denoiser
from dashdeploy.diffusion.sampling import Plan, ddim_step, to_uint8
from dashdeploy.errors import UserError
from dashdeploy.figures import SamplingCheck
from dashdeploy.metrics.gap import relative_error
from dashdeploy.recipe.schema import Guidance
from dashdeploy.runtime.graphs_model import Session


@dataclass(frozen=True)
class Trajectory:
    """One torch trajectory: noise, labels, w (B, N), and x after each step, (N, B, C, H, W)."""

    noise: torch.Tensor
    y: torch.Tensor
    w: torch.Tensor
    states: list[torch.Tensor]


@torch.no_grad()
def trajectory(reference: Denoiser, plan: Plan, *, scale: Guidance, seed: int, batch_size: int) -> Trajectory:
    """Torch's run; neighbouring images differ in label and in guidance, so that a graph with one for all must fail."""
    interface = reference.interface
    generator = torch.Generator().manual_seed(seeds.derive(seed, "sampling-check"))
    noise = torch.randn((batch_size, *interface.image_shape), generator=generator)
    y = torch.arange(batch_size) % interface.num_classes
    total = interface.schedule.num_train_timesteps
    w = torch.tensor([guidance.weight(scale, t, total) for t in plan.timesteps])
    w = w[None] + (torch.arange(batch_size) % 3)[:, None] * 0.5
    alpha_bar = interface.schedule.alphas_cumprod_from_clean
    x, states = noise, []
    for i, (t, t_prev, _) in enumerate(plan.steps()):
        eps = reference.guided(x, torch.full_like(y, t), y, w[:, i])
        x = ddim_step(x, eps, alpha_bar[t + 1], alpha_bar[t_prev + 1], clip_sample=plan.clip_sample)
        states.append(x)
    return Trajectory(noise, y, w.float(), states)


def check_cond(session: Session, reference: Denoiser, path: Trajectory, plan: Plan) -> SamplingCheck:
    """The conditional branch, and with the null label the unconditional one, at each x_t of the trajectory."""
    worst = 0.0
    null = torch.full_like(path.y, reference.interface.null_class)
    with torch.no_grad():
        for x, now in zip([path.noise, *path.states], plan.timesteps, strict=False):
            t = torch.full_like(path.y, now)
            for y in (path.y, null):
                worst = max(worst, _error(session(x, t, y), reference(x, t, y)))
    return SamplingCheck(graph="cond", step_error=worst)


def check_step(session: Session, path: Trajectory, plan: Plan) -> SamplingCheck:
    """Each step from torch's x_t, and all steps fed back."""
    x, before, worst = path.noise, path.noise, 0.0
    for i, (now, previous, _) in enumerate(plan.steps()):
        t, t_prev, w = torch.full_like(path.y, now), torch.full_like(path.y, previous), path.w[:, i].contiguous()
        one_step = session(before, t, t_prev, path.y, w)
        worst = max(worst, _error(one_step, path.states[i]))
        before = path.states[i]
        x = session(x, t, t_prev, path.y, w)
    images, expected = x, path.states[-1]
    return SamplingCheck(
        graph="step",
        step_error=worst,
        image_error=_error(images, expected),
        max_difference=float((images - expected).abs().max()),
    )


def check_sampler(session: Session, path: Trajectory) -> SamplingCheck:
    """Final images of the whole sampler; bytes are taken back to [−1, 1], and compared with torch's bytes."""
    images, expected = session(path.noise, path.y, path.w), path.states[-1]
    if images.dtype == torch.uint8:
        images, expected = images.float() / 127.5 - 1, to_uint8(expected).float() / 127.5 - 1
    difference = float((images - expected).abs().max())
    return SamplingCheck(graph="sampler", image_error=_error(images, expected), max_difference=difference)


def require(check: SamplingCheck, *, step_error: float, image_error: float, max_difference: float | None) -> None:
    """Hold a check to its limits.

    Raises:
        UserError: it names the graph, the figure and the limit.
    """
    limits = (
        ("error of a single step", check.step_error, step_error),
        ("error of the final images", check.image_error, image_error),
        ("largest difference of a pixel", check.max_difference, max_difference),
    )
    for what, value, limit in limits:
        if value is not None and limit is not None and not value <= limit:
            raise UserError(
                f"the {check.graph} graph does not follow torch: {what} {value:.2e}, limit {limit:.2e}. No artifact "
                "was written. Its schedule, timesteps or clipping differ from the student's, or the precision is too "
                "low for it."
            )


def _error(output: torch.Tensor, expected: torch.Tensor) -> float:
    if output.shape != expected.shape or not torch.isfinite(output).all():
        return float("inf")
    return relative_error(output, expected)
