"""Guidance fidelity: how well one model's guidance gap Δ = eps_cond − eps_uncond follows another's, per t bin.

The figures of arXiv:2606.00798 (ρ, cosine, MSE_Δ) and those that cannot be gamed: relative error,
energy-weighted cosine, projection slope, and the guided error at the scale in use.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch

from dashdeploy import seeds
from dashdeploy.data.images import LabelledImages, to_float
from dashdeploy.diffusion import guidance
from dashdeploy.diffusion.denoiser import Denoiser
from dashdeploy.diffusion.schedule import NoiseSchedule
from dashdeploy.figures import GapRow
from dashdeploy.recipe.schema import Guidance


@dataclass(frozen=True)
class Probes:
    """Fixed draws. x_t: (N, C, H, W) float32; t, y: (N,) int64.

    trajectory: (N,) int64, the trajectory that each is a point of. None: all are independent.
    """

    x_t: torch.Tensor
    t: torch.Tensor
    y: torch.Tensor
    trajectory: torch.Tensor | None = None


def draw_probes(data: LabelledImages, schedule: NoiseSchedule, *, num: int, seed: int) -> Probes:
    """N draws of (x_0, eps, t, y) from held-out images, the same for every model; t is stratified."""
    generator = torch.Generator().manual_seed(seeds.derive(seed, "probes"))
    rows = torch.randint(0, len(data), (num,), generator=generator)
    steps = schedule.num_train_timesteps
    t = ((torch.arange(num) + torch.rand(num, generator=generator)) * (steps / num)).long().clamp(max=steps - 1)
    x_0 = torch.from_numpy(to_float(data.images[rows.numpy()]))
    eps = torch.randn(x_0.shape, generator=generator)
    return Probes(schedule.add_noise(x_0, eps, t), t, torch.from_numpy(data.labels[rows.numpy()]))


@torch.no_grad()
def predict(
    model: Denoiser,
    probes: Probes,
    *,
    batch_size: int,
    device: torch.device | str = "cpu",
    on_draws: Callable[[int], None] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(eps_uncond, eps_cond) of a model on all probes, float32 on the CPU."""
    outputs = []
    for start in range(0, len(probes.t), batch_size):
        part = slice(start, start + batch_size)
        pair = model.branches(probes.x_t[part].to(device), probes.t[part].to(device), probes.y[part].to(device))
        outputs.append([branch.float().cpu() for branch in pair])
        if on_draws is not None:
            on_draws(len(outputs[-1][0]))
    uncond, cond = zip(*outputs, strict=True)
    return torch.cat(uncond), torch.cat(cond)


def fidelity(
    student: tuple[torch.Tensor, torch.Tensor],
    teacher: tuple[torch.Tensor, torch.Tensor],
    probes: Probes,
    *,
    scale: Guidance,
    num_train_timesteps: int,
    bins: int,
) -> tuple[GapRow, list[GapRow]]:
    """(over all t, per bin) from both models' (eps_uncond, eps_cond) on the same probes."""
    w = torch.tensor([guidance.weight(scale, int(t), num_train_timesteps) for t in probes.t])
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
    gap_s, gap_t = ((cond - uncond).flatten(1) for uncond, cond in (student, teacher))
    inner, energy_s, energy_t = (gap_s * gap_t).sum(1), gap_s.square().sum(1), gap_t.square().sum(1)
    difference = (gap_s - gap_t).square().sum(1)
    guided = [guidance.combine(uncond, cond, w) for uncond, cond in (student, teacher)]
    tiny = 1e-300
    return GapRow(
        t_low=low,
        t_high=high,
        num=len(w),
        rho=float(energy_s.sqrt().mean() / energy_t.sqrt().mean().clamp_min(tiny)),
        relative_error=float((difference.mean() / energy_t.mean().clamp_min(tiny)).sqrt()),
        energy_cosine=float(inner.mean() / (energy_s.mean() * energy_t.mean()).sqrt().clamp_min(tiny)),
        mean_cosine=float((inner / (energy_s * energy_t).sqrt().clamp_min(tiny)).mean()),
        slope=float(inner.mean() / energy_t.mean().clamp_min(tiny)),
        mse=float(difference.mean() / gap_s.shape[1]),
        guided_error=relative_error(guided[0], guided[1]),
        uncond_error=relative_error(student[0], teacher[0]),
        cond_error=relative_error(student[1], teacher[1]),
    )


def relative_error(given: torch.Tensor, expected: torch.Tensor) -> float:
    """√(Σ(given − expected)² / Σ expected²), in float64."""
    given, expected = given.double(), expected.double()
    return float(((given - expected).square().sum() / expected.square().sum().clamp_min(1e-300)).sqrt())
