"""The response to guidance R(w) = f(w) − f(1): what guidance changes in a prediction, whatever a model's branches.

Of two branches R(w) = (w − 1)·Δ, with the gap Δ = cond − uncond. A model of one branch has no gap, and is asked at w
and at 1. Beside what does it stand?

- The teacher's gap at the same x_t: (w − 1)·Δ. This is what a student of two branches imitates.
- Its target (`diffusion/guided_targets.py`) at w, less its target at 1. A student of one branch imitates the guided
  teacher with the predicted x_0 of images clipped to [−1, 1], as its sampler does. At high t the clipping cuts most of
  (w − 1)·Δ off, where that is beyond the range of images. A few-step student does not predict the teacher's output at
  t, but where the guided teacher's path from t ends: over a long step guidance acts again at every point of the path,
  on an x_t that it has moved already, and a perfect student is far from (w − 1)·Δ. Of the digits teacher at w = 2, in
  four steps, the path's response has a cosine of 0.72, 0.77, 0.72 and 0.48 with the gap's.

A consistency student's path goes to the clean image from every timestep. A student of distribution matching is trained
to no path, but begins as one that was: the path is what its response stands beside, and no target that it must reach.

So a student of one branch is judged by its target, and by the gap a model of two. Both are given where both exist.

At one timestep predictions differ by a factor, which changes none of the figures; over all timesteps they weigh them
differently. All is measured as what the student predicts: where there is no signal, eps shows nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from dashdeploy.diffusion import guided_targets
from dashdeploy.diffusion.denoiser import Denoiser
from dashdeploy.diffusion.grids import CLEAN
from dashdeploy.metrics import gap
from dashdeploy.metrics.gap import Probes
from dashdeploy.recipe.schema import Prediction

BATCH_SIZE = 128


@torch.no_grad()
def of_model(
    model: Denoiser,
    probes: Probes,
    scales: Sequence[float],
    *,
    base: float,
    prediction: Prediction,
    device: torch.device | str = "cpu",
) -> list[torch.Tensor]:
    """f(w) − f(base) at each of the scales: (N, C, H, W) float32 on the CPU.

    Args:
        base: in the model's range of scales; 1 where that holds 1.
        prediction: what f is given as, whatever the model predicts.
    """
    if model.interface.branches == 2:
        uncond, cond = gap.predict(model, probes, batch_size=BATCH_SIZE, prediction=prediction, device=device)
        return [(w - base) * (cond - uncond) for w in scales]

    def at(w: float) -> torch.Tensor:
        parts = []
        for x, t, y in zip(*(v.split(BATCH_SIZE) for v in (probes.x_t, probes.t, probes.y)), strict=True):
            output = model.guided(x.to(device), t.to(device), y.to(device), torch.full(y.shape, w, device=device))
            parts.append(model.interface.convert(output.float().cpu(), x, t, prediction))
        return torch.cat(parts)

    off = at(base)
    return [at(w) - off for w in scales]


@torch.no_grad()
def of_target(
    teacher: Denoiser,
    probes: Probes,
    scales: Sequence[float],
    *,
    base: float,
    prediction: Prediction,
    clip: bool,
    ends: Mapping[int, int] | None = None,
    steps: int = 0,
    device: torch.device | str = "cpu",
) -> list[torch.Tensor]:
    """The target of a student of one branch at each of the scales, less the target at `base`; as `of_model` gives it.

    Args:
        clip: the teacher's predicted x_0 to [−1, 1], as in training: of images and not of latents.
        ends: of a few-step student, where its step from each of the timesteps of the probes ends.
        steps: of the teacher from there to the end; 0: the target is its output at t.
    """
    end = torch.tensor([(ends or {}).get(t, CLEAN) for t in probes.t.tolist()])

    def at(w: float) -> torch.Tensor:
        parts = []
        for part in zip(*(v.split(BATCH_SIZE) for v in (probes.x_t, probes.t, end, probes.y)), strict=True):
            x, t, s, y = (v.to(device) for v in part)
            scale = torch.full(y.shape, w, device=device)
            given = (teacher, x, t, s, y, scale)
            parts.append(guided_targets.target(*given, steps=steps, clip=clip, prediction=prediction).cpu())
        return torch.cat(parts)

    off = at(base)
    return [at(w) - off for w in scales]
