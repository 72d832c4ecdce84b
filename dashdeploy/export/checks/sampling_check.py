"""The cond, step and sampler graphs against torch from the same noise: each step by itself, and the final images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx
import torch

from dashdeploy import seeds
from dashdeploy.diffusion import guidance
from dashdeploy.diffusion.denoiser import Denoiser
from dashdeploy.diffusion.grids import CLEAN
from dashdeploy.diffusion.pixels import from_uint8, to_uint8
from dashdeploy.diffusion.sampling import Plan
from dashdeploy.diffusion.schedule import NoiseSchedule
from dashdeploy.errors import UserError
from dashdeploy.export.graph import sampler_graph
from dashdeploy.figures import SamplingCheck
from dashdeploy.metrics.gap import relative_error
from dashdeploy.recipe.schema import Guidance, Solver
from dashdeploy.runtime.sessions import Session


@dataclass(frozen=True)
class Trajectory:
    """One torch trajectory: noise, labels, w (B, N), and x (B, C, H, W) before and after each of the N steps.

    They differ by the noise that the solver consistency adds in between.
    """

    noise: torch.Tensor
    y: torch.Tensor
    w: torch.Tensor
    before: list[torch.Tensor]
    after: list[torch.Tensor]


@torch.no_grad()
def trajectory(reference: Denoiser, plan: Plan, *, scale: Guidance, seed: int, batch_size: int) -> Trajectory:
    """Torch's run; neighbouring images differ in label and in guidance, so that a graph with one for all must fail."""
    interface = reference.interface
    generator = torch.Generator().manual_seed(seeds.derive(seed, "sampling-check"))
    noise = torch.randn((batch_size, *interface.noise_shape(plan)), generator=generator)
    y = torch.arange(batch_size) % interface.num_classes
    total = interface.schedule.num_train_timesteps
    w = torch.tensor([guidance.weight(scale, t, total) for t in plan.timesteps])
    w = torch.stack([interface.varied(scale.expand(batch_size), by=0.5) for scale in w], dim=1)
    alpha_bar = interface.schedule.alphas_cumprod_from_clean
    x, before, after = plan.start(noise), [], []
    for i, (t, t_prev, _) in enumerate(plan.steps()):
        before.append(x)
        output = reference.guided(x, torch.full_like(y, t), y, w[:, i])
        x = plan.move(x, output, t, t_prev, alpha_bar, prediction=interface.prediction)
        after.append(x)
        x = plan.renoise(x, i, noise, alpha_bar)
    return Trajectory(noise, y, w.float(), before, after)


def check_cond(session: Session, reference: Denoiser, path: Trajectory, plan: Plan) -> SamplingCheck:
    """The conditional branch, and with the null label the unconditional one, at each x_t of the trajectory."""
    worst = 0.0
    null = torch.full_like(path.y, reference.interface.null_class)
    with torch.no_grad():
        for x, now in zip(path.before, plan.timesteps, strict=True):
            t = torch.full_like(path.y, now)
            for y in (path.y, null):
                worst = max(worst, _error(session(x, t, y), reference(x, t, y)))
    return SamplingCheck(graph="cond", step_error=worst)


def check_step(session: Session, path: Trajectory, plan: Plan, schedule: NoiseSchedule) -> SamplingCheck:
    """Each step from torch's x_t, and all steps fed back."""
    x, worst = plan.start(path.noise), 0.0
    for i, (now, previous, _) in enumerate(plan.steps()):
        t, t_prev, w = torch.full_like(path.y, now), torch.full_like(path.y, previous), path.w[:, i].contiguous()
        one_step = session(path.before[i], t, t_prev, path.y, w)
        worst = max(worst, _error(one_step, path.after[i]))
        x = plan.renoise(session(x, t, t_prev, path.y, w), i, path.noise, schedule.alphas_cumprod_from_clean)
    images, expected = x, path.after[-1]
    return SamplingCheck(
        graph="step",
        step_error=worst,
        image_error=_error(images, expected),
        max_difference=float((images - expected).abs().max()),
    )


def check_sampler(session: Session, path: Trajectory, expected: torch.Tensor | None = None) -> SamplingCheck:
    """Final images of the whole sampler; bytes are taken back to [−1, 1], and compared with torch's bytes.

    Args:
        expected: what it ends in; None: torch's last x.
    """
    images, expected = session(path.noise, path.y, path.w), path.after[-1] if expected is None else expected
    if images.dtype == torch.uint8:
        images, expected = from_uint8(images), from_uint8(to_uint8(expected))
    difference = float((images - expected).abs().max())
    return SamplingCheck(graph="sampler", image_error=_error(images, expected), max_difference=difference)


def require_timesteps(sampler: onnx.ModelProto, timesteps: Sequence[int], *, solver: Solver) -> None:
    """Hold the timesteps in a sampler graph to its plan's: one that is off changes images by less than int8 does.

    Args:
        solver: every step of consistency goes to the clean image, of others each to the next.

    Raises:
        UserError: they are others.
    """
    after = (CLEAN,) * len(timesteps) if solver == "consistency" else (*timesteps[1:], CLEAN)
    held, expected = sampler_graph.timesteps_of(sampler), (tuple(timesteps), after)
    if held != expected:
        raise UserError(
            f"the sampler graph steps at {', '.join(map(str, held[0][:8]))} to {', '.join(map(str, held[1][:8]))}, and "
            f"its plan at {', '.join(map(str, expected[0][:8]))} to {', '.join(map(str, after[:8]))}. No artifact was "
            "written."
        )


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
