"""Guidance fidelity: how well one model's guidance gap Δ = eps_cond − eps_uncond follows another's, per t bin.

The figures of arXiv:2606.00798 (ρ, cosine, MSE_Δ) and those that cannot be gamed: relative error,
energy-weighted cosine, projection slope, and the guided error at the scale in use.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from dashdeploy import seeds
from dashdeploy.data.images import LabelledImages, to_float
from dashdeploy.diffusion import guidance
from dashdeploy.diffusion.denoiser import Denoiser
from dashdeploy.diffusion.schedule import NoiseSchedule
from dashdeploy.figures import GapRow
from dashdeploy.recipe.schema import Guidance, Prediction

NEAR = 0.05
"""Scales this near to 1 show too little of the response to guidance."""


@dataclass(frozen=True)
class Probes:
    """Fixed draws. x_t: (N, C, H, W) float32; t, y: (N,) int64.

    trajectory: (N,) int64, the trajectory that each is a point of. None: all are independent.
    """

    x_t: torch.Tensor
    t: torch.Tensor
    y: torch.Tensor
    trajectory: torch.Tensor | None = None


def draw_probes(
    data: LabelledImages, schedule: NoiseSchedule, *, num: int, seed: int, timesteps: Sequence[int] = ()
) -> Probes:
    """N draws of (x_0, eps, t, y) from held-out images, the same for every model; t is stratified.

    Args:
        timesteps: t is each of them in turn. (): any.
    """
    generator = torch.Generator().manual_seed(seeds.derive(seed, "probes"))
    rows = torch.randint(0, len(data), (num,), generator=generator)
    steps = schedule.num_train_timesteps
    t = ((torch.arange(num) + torch.rand(num, generator=generator)) * (steps / num)).long().clamp(max=steps - 1)
    if timesteps:
        t = torch.tensor(timesteps)[torch.arange(num) % len(timesteps)]
    x_0 = torch.from_numpy(to_float(data.images[rows.numpy()]))
    eps = torch.randn(x_0.shape, generator=generator)
    return Probes(schedule.add_noise(x_0, eps, t), t, torch.from_numpy(data.labels[rows.numpy()]))


@torch.no_grad()
def predict(
    model: Denoiser,
    probes: Probes,
    *,
    batch_size: int,
    w: torch.Tensor | None = None,
    prediction: Prediction = "epsilon",
    device: torch.device | str = "cpu",
    on_draws: Callable[[int], None] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(uncond, cond) of a model on all probes, float32 on the CPU.

    Args:
        w: (N,) float32, the scales at which a model of one branch is asked, see `as_branches`. None: the middle of its
            range.
        prediction: what they are given as, whatever the model predicts. Where there is hardly any signal, eps is x_t
            and shows nothing of what a model of v or x_0 says.
    """
    outputs = []
    for start in range(0, len(probes.t), batch_size):
        part = slice(start, start + batch_size)
        x, t, y = probes.x_t[part], probes.t[part], probes.y[part]
        given = (x.to(device), t.to(device), y.to(device))
        if model.interface.branches == 1:
            pair = as_branches(model, *given, None if w is None else w[part].to(device))
        else:
            pair = model.branches(*given)
        outputs.append([model.interface.convert(branch.float().cpu(), x, t, prediction) for branch in pair])
        if on_draws is not None:
            on_draws(len(outputs[-1][0]))
    uncond, cond = zip(*outputs, strict=True)
    return torch.cat(uncond), torch.cat(cond)


def as_branches(
    model: Denoiser, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor, w: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """(uncond, cond) that one branch acts as at w (B,): the two whose guided output is its own at w, and at 1.

    Its response to guidance is R(w) = f(w) − f(1), and of two branches R(w) = (w − 1)·Δ. So R(w)/(w − 1) takes the
    place of the gap Δ, and every figure of a gap is one of the response: ρ, cosine, error and slope do not change with
    the factor w − 1. Where w is 1 the far end of the range is asked; 1 itself, where it is not in the range, at its end
    that is nearest.
    """
    interface = model.interface
    assert interface.guidance_range is not None
    low, high = interface.guidance_range
    base = interface.base_scale
    middle = torch.full(y.shape, (low + high) / 2, device=y.device)
    asked = middle if w is None else w.to(middle).clamp(low, high)
    far = high if high - base >= base - low else low
    asked = asked.where((asked - base).abs() > NEAR, torch.full_like(asked, far))
    at_base = model.guided(x, t, y, torch.full_like(asked, base)).float()
    gap = (model.guided(x, t, y, asked).float() - at_base) / (asked - base).view(-1, 1, 1, 1)
    uncond = at_base - base * gap
    return uncond, uncond + gap


def scales(scale: Guidance, probes: Probes, num_train_timesteps: int) -> torch.Tensor:
    """The guidance scale at each probe's timestep, (N,) float32."""
    return torch.tensor([guidance.weight(scale, int(t), num_train_timesteps) for t in probes.t])


def fidelity(
    student: tuple[torch.Tensor, torch.Tensor],
    teacher: tuple[torch.Tensor, torch.Tensor],
    probes: Probes,
    *,
    scale: Guidance | torch.Tensor,
    num_train_timesteps: int,
    bins: int,
) -> tuple[GapRow, list[GapRow]]:
    """(over all t, per bin) from both models' (eps_uncond, eps_cond) on the same probes.

    Args:
        scale: of the guided error; a tensor: (N,), of each probe.
    """
    w = scale if isinstance(scale, torch.Tensor) else scales(scale, probes, num_train_timesteps)
    edges = [round(i * num_train_timesteps / bins) for i in range(bins + 1)]
    rows = []
    for low, high in [(0, num_train_timesteps), *itertools.pairwise(edges)]:
        inside = (probes.t >= low) & (probes.t < high)
        ours, theirs = ((uncond[inside].double(), cond[inside].double()) for uncond, cond in (student, teacher))
        rows.append(_row(ours, theirs, w[inside].double(), low, high))
    return rows[0], rows[1:]


def _row(
    student: tuple[torch.Tensor, torch.Tensor],
    teacher: tuple[torch.Tensor, torch.Tensor],
    w: torch.Tensor,
    low: int,
    high: int,
) -> GapRow:
    gap_s, gap_t = (cond - uncond for uncond, cond in (student, teacher))
    guided = [guidance.combine(uncond, cond, w) for uncond, cond in (student, teacher)]
    return GapRow(
        t_low=low,
        t_high=high,
        num=len(w),
        **likeness(gap_s, gap_t),
        guided_error=relative_error(guided[0], guided[1]),
        uncond_error=relative_error(student[0], teacher[0]),
        cond_error=relative_error(student[1], teacher[1]),
    )


def likeness(given: torch.Tensor, expected: torch.Tensor) -> dict[str, float]:
    """The figures of a `GapRow` that need no more than two gaps, or two responses to guidance, (N, C, H, W) float64."""
    given, expected = given.flatten(1), expected.flatten(1)
    inner, energy_s, energy_t = (given * expected).sum(1), given.square().sum(1), expected.square().sum(1)
    difference, tiny = (given - expected).square().sum(1), 1e-300
    return {
        "rho": float(energy_s.sqrt().mean() / energy_t.sqrt().mean().clamp_min(tiny)),
        "relative_error": float((difference.mean() / energy_t.mean().clamp_min(tiny)).sqrt()),
        "energy_cosine": float(inner.mean() / (energy_s.mean() * energy_t.mean()).sqrt().clamp_min(tiny)),
        "mean_cosine": float((inner / (energy_s * energy_t).sqrt().clamp_min(tiny)).mean()),
        "slope": float(inner.mean() / energy_t.mean().clamp_min(tiny)),
        "mse": float(difference.mean() / given.shape[1]),
    }


def relative_error(given: torch.Tensor, expected: torch.Tensor) -> float:
    """√(Σ(given − expected)² / Σ expected²), in float64."""
    given, expected = given.double(), expected.double()
    return float(((given - expected).square().sum() / expected.square().sum().clamp_min(1e-300)).sqrt())
