"""The fake score of distribution matching: a network that learns to denoise what the student makes (DMD2, §4).

Two time scales (arXiv:2405.14867, §4.2): it trains in every step, and the student in one of `fake_updates`. In the
others, and in all of the warm-up, the student has no gradient, so that AdamW leaves it and its moments alone.
"""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace

import torch
from torch import nn

from dashdeploy import seeds
from dashdeploy.data.images import LabelledImages
from dashdeploy.diffusion import guided_targets
from dashdeploy.diffusion import prediction as predictions
from dashdeploy.diffusion.denoiser import TorchDenoiser
from dashdeploy.diffusion.grids import Grid, grids
from dashdeploy.diffusion.sampling import ddim_step
from dashdeploy.diffusion.schedule import NoiseSchedule
from dashdeploy.objectives.base import Batch, Student, Term, Terms, mse
from dashdeploy.objectives.distribution_matching import DistributionMatching
from dashdeploy.recipe import schema
from dashdeploy.teachers import guidance_embedding
from dashdeploy.training.batches import AUTOCAST, FreshDraws

Tensor = torch.Tensor


class StudentDraws(FreshDraws):
    """Draws that the student makes its images from: labels of the data, noise, w, and a timestep of its grids.

    Of a batch, x_t is the noise that a path begins with, target the noise that its image is noised by, uniform its t',
    and trains_student says whether the student trains too.
    """

    def __init__(
        self,
        data: LabelledImages,
        schedule: NoiseSchedule,
        objective: DistributionMatching,
        *,
        batch_size: int,
        seed: int,
        warmup_steps: int,
    ) -> None:
        some = grids(objective.steps, schedule.num_train_timesteps)
        super().__init__(data, schedule, batch_size=batch_size, seed=seed, timesteps=tuple(itertools.chain(*some)))
        self.objective, self.warmup_steps = objective, warmup_steps

    def draw(self, step: int) -> Batch:
        """The whole batch of `step`, on the CPU, from a generator that is seeded by (seed, step)."""
        y = torch.from_numpy(self.stream.data.labels[self.stream.rows(step)])
        shape = (len(y), *self.stream.data.image_shape)
        generator = torch.Generator().manual_seed(seeds.derive(self.seed, "matching", step))
        t = self.timesteps[torch.randint(0, len(self.timesteps), y.shape, generator=generator)]
        start, noise = (torch.randn(shape, generator=generator) for _ in range(2))
        w, uniform = (torch.rand(y.shape, generator=generator) for _ in range(2))
        trains = torch.full(y.shape, self.objective.trains_student(step, warmup_steps=self.warmup_steps))
        w = self.objective.scale(w)
        return Batch(x_t=start, t=t, y=y, target=noise, uniform=uniform, w=w, trains_student=trains)


class FakeScore(nn.Module):
    """The objective, and the denoising loss of the fake score: a copy of the teacher that has w as an input.

    The copy begins as the teacher's conditional branch. It trains with the student and is not part of it.

    Args:
        teacher: the real score is its guided output.
        clip: x_0 of the teacher to [−1, 1], as images are; that of the fake score too, or to what the student makes.
        clip_sample: the student's x_0 on its way along a grid, as the recipe's sampler does.
        precision: of the teacher's forward.
    """

    def __init__(
        self,
        teacher: TorchDenoiser,
        objective: DistributionMatching,
        *,
        clip: bool,
        clip_sample: bool,
        precision: schema.Precision = "fp32",
    ) -> None:
        super().__init__()
        self.objective, self.clip, self.clip_sample = objective, clip, clip_sample
        self.precision: schema.Precision = precision
        span = objective.guidance_range
        network = guidance_embedding.add(copy.deepcopy(teacher.unet), span).requires_grad_(True)
        # In eval mode, as the teacher is: dropout would be noise in the gradient.
        self.fake = TorchDenoiser(network.eval(), replace(teacher.interface, branches=1, guidance_range=span))
        self.schedule = teacher.interface.schedule
        self.grids = grids(objective.steps, self.schedule.num_train_timesteps)
        self._real = [teacher]  # in a list: no part of this module, which trains and is saved

    def forward(self, student: Student, batch: Batch) -> Terms:
        """The fake score's denoising loss on the student's images; where the student trains, the objective's too.

        Args:
            student: it gives x_0.
            batch: of StudentDraws.
        """
        assert batch.trains_student is not None, "these draws are not the student's"
        y, w, noise = batch.y, batch.scales(), batch.target
        x_t = self.simulated(student, batch)
        # The objective runs the student again: with the same dropout.
        with torch.random.fork_rng([x_t.device] if x_t.is_cuda else []), torch.no_grad():
            x_0 = student.guided(x_t, batch.t, y, w).float()
        t = self.objective.noised_t(batch.uniform, self.schedule.num_train_timesteps)
        alpha_bar = self.schedule.alphas_cumprod.to(t.device)[t].view(-1, 1, 1, 1)
        noised = self.schedule.add_noise(x_0, noise, t)
        output = self.fake.guided(noised, t, y, w)
        predicted = self.fake.interface.prediction
        terms = {"fake": Term(1.0, mse(output, predictions.of(x_0, noise, alpha_bar, prediction=predicted)))}
        if not bool(batch.trains_student.any()):
            return terms
        fake, _ = predictions.x_0_and_eps(output.detach(), noised, alpha_bar, prediction=predicted)
        if self.clip:  # to what the student makes: where it leaves [−1, 1], the teacher pulls it back
            fake = fake.clamp(x_0.clamp(max=-1), x_0.clamp(min=1))
        real = self.real(noised, t, y, w)
        target = self.objective.target(x_0, fake, real)
        return {**terms, **self.objective.terms(student, replace(batch, x_t=x_t, target=target))}

    @torch.no_grad()
    def real(self, x: Tensor, t: Tensor, y: Tensor, w: Tensor) -> Tensor:
        """The guided teacher's x_0 (B, C, H, W) float32; the arguments as of `guided_targets.guided_x_0`."""
        (teacher,) = self._real
        with torch.autocast(x.device.type, AUTOCAST.get(self.precision), enabled=self.precision in AUTOCAST):
            return guided_targets.guided_x_0(teacher, x, t, y, w, clip=self.clip)

    @torch.no_grad()
    def simulated(self, student: Student, batch: Batch) -> Tensor:
        """x_t of each image: the student's own way from noise along its grid to t (backward simulation, DMD2 §4.5).

        Args:
            student: it gives x_0.
            batch: x_t is the noise, (B, C, H, W) float32.
        """
        ways = [_way(self.grids, t) for t in batch.t.tolist()]
        x, bars = batch.x_t.clone(), self.schedule.alphas_cumprod.to(batch.x_t.device)
        for step in range(max(map(len, ways)) - 1):
            rows = torch.tensor([i for i, way in enumerate(ways) if len(way) > step + 1], device=x.device)
            now, after = (
                torch.tensor([ways[i][at] for i in rows.tolist()], device=x.device) for at in (step, step + 1)
            )
            output = student.guided(x[rows], now, batch.y[rows], batch.scales()[rows]).float()
            bar, next_bar = (bars[t].view(-1, 1, 1, 1) for t in (now, after))
            x[rows] = ddim_step(x[rows], output, bar, next_bar, clip_sample=self.clip_sample, prediction="sample")
        return x


def _way(some: tuple[Grid, ...], t: int) -> Grid:
    """The timesteps of t's grid, down to t."""
    (grid,) = [grid for grid in some if t in grid]
    return grid[: grid.index(t) + 1]
