"""The batch of a training step: x_t, t, y, eps and, for distillation, the teacher's two outputs.

Every draw is a function of (seed, step). It is made for the whole batch and then cut for each process and micro-batch.
So two processes, or a run that was killed and resumed, see exactly the draws of one process that was never stopped, and
a checkpoint holds no generator's state.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Protocol

import torch

from dashdeploy import seeds
from dashdeploy.data.images import ImageStream, LabelledImages
from dashdeploy.diffusion import guidance
from dashdeploy.diffusion.denoiser import TorchDenoiser
from dashdeploy.diffusion.schedule import NoiseSchedule
from dashdeploy.objectives.base import Batch
from dashdeploy.recipe.schema import Precision

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Source(Protocol):
    """Where a training run takes its batches from: `draw` makes a step's batch, `complete` finishes a part of it."""

    def draw(self, step: int) -> Batch:
        """The whole batch of `step`, on the CPU."""
        ...

    def complete(self, batch: Batch) -> Batch:
        """Add the costly parts, which are the teacher's outputs, to a part of a batch that is on its device."""
        ...


class FreshDraws:
    """New noise at every step; the teacher, if there is one, runs on every batch.

    Args:
        features: gathers the teacher's features as it runs, see `hints.middle_features`. None: none are wanted.
        precision: of the teacher's forward, by autocast; its outputs are kept in float32.
        timesteps: t is uniform over these. None: over all of the schedule's.
    """

    def __init__(
        self,
        data: LabelledImages,
        schedule: NoiseSchedule,
        *,
        batch_size: int,
        seed: int,
        teacher: TorchDenoiser | None = None,
        features: Callable[[TorchDenoiser], AbstractContextManager[list[torch.Tensor]]] | None = None,
        precision: Precision = "fp32",
        timesteps: tuple[int, ...] | None = None,
    ) -> None:
        self.precision: Precision = precision
        self.timesteps = torch.tensor(timesteps or range(schedule.num_train_timesteps))
        self.stream = ImageStream(data, batch_size=batch_size, seed=seed)
        self.schedule, self.seed, self.teacher, self.features = schedule, seed, teacher, features

    def others(self, *, batch_size: int, seed: int) -> FreshDraws:
        """The same source with another seed and batch size."""
        return FreshDraws(
            self.stream.data,
            self.schedule,
            batch_size=batch_size,
            seed=seed,
            teacher=self.teacher,
            features=self.features,
            precision=self.precision,
            timesteps=tuple(self.timesteps.tolist()),
        )

    def draw(self, step: int) -> Batch:
        """Images, uniform t and normal eps: all from generators that are seeded by (seed, step)."""
        pixels, labels = self.stream.batch(step)
        x_0, y = torch.from_numpy(pixels), torch.from_numpy(labels)
        generator = torch.Generator().manual_seed(seeds.derive(self.seed, "draw", step))
        t = self.timesteps[torch.randint(0, len(self.timesteps), y.shape, generator=generator)]
        eps = torch.randn(x_0.shape, generator=generator)
        uniform = torch.rand(y.shape, generator=generator)
        return Batch(x_t=self.schedule.add_noise(x_0, eps, t), t=t, y=y, eps=eps, uniform=uniform)

    @torch.no_grad()
    def complete(self, batch: Batch) -> Batch:
        """Run the teacher once, on both branches stacked."""
        if self.teacher is None:
            return batch
        with (
            torch.autocast(batch.x_t.device.type, AUTOCAST.get(self.precision), enabled=self.precision in AUTOCAST),
            self.features(self.teacher) if self.features else nullcontext([]) as features,
        ):
            uncond, cond = self.teacher.branches(batch.x_t, batch.t, batch.y)
        kept = guidance.by_branch(features[0]).float() if features else None
        return replace(batch, teacher_uncond=uncond.float(), teacher_cond=cond.float(), teacher_features=kept)
