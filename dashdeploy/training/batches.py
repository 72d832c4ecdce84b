"""The batch of a training step: x_t, t, y, the target and, for distillation, what the teacher says.

Every draw is a function of (seed, step). It is made for the whole batch and then cut for each process and micro-batch.
So two processes, or a run that was killed and resumed, see exactly the draws of one process that was never stopped, and
a checkpoint holds no generator's state.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Protocol

import torch

from dashdeploy import seeds
from dashdeploy.data.images import ImageStream, LabelledImages
from dashdeploy.diffusion import guidance, guided_targets
from dashdeploy.diffusion import prediction as predictions
from dashdeploy.diffusion.denoiser import TorchDenoiser
from dashdeploy.diffusion.grids import CLEAN, Grid, segments_of
from dashdeploy.diffusion.prediction import Prediction
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


@dataclass(frozen=True)
class GuidedDraws:
    """The draws of a student that has w as an input.

    Attributes:
        scale: from a uniform draw to w.
        teacher_steps: see `guided_targets.target`.
        clip: the teacher's predicted x_0 to [−1, 1]: of images, and not of latents. `sampling.clip_sample` does not
            count: it is the student's sampler's.
        grids: of a few-step student; t is one of their timesteps. (): t is any.
        skip: timesteps that the teacher goes from t by one DDIM step, at most to clean; the target is where that ends.
            0: see `guided_targets.target`.
        finer: the teacher's grid, which has a timestep between every two of the student's. (): it has none of its own.
    """

    scale: Callable[[torch.Tensor], torch.Tensor]
    teacher_steps: int
    clip: bool
    grids: tuple[Grid, ...] = ()
    skip: int = 0
    finer: Grid = ()


class FreshDraws:
    """New noise at every step; the teacher, if there is one, runs on every batch.

    Args:
        features: gathers the teacher's features as it runs, see `hints.middle_features`. None: none are wanted.
        precision: of the teacher's forward, by autocast; its outputs are kept in float32.
        timesteps: t is uniform over these. None: over all of the schedule's, or those of the grids.
        prediction: what targets and the teacher's outputs are given as: eps, v or x_0.
        one_branch: the target is the guided teacher's. None: the image's, and the teacher's outputs are both branches.
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
        prediction: Prediction = "epsilon",
        one_branch: GuidedDraws | None = None,
    ) -> None:
        self.precision: Precision = precision
        self.prediction: Prediction = prediction
        self.one_branch = one_branch
        self.next_of = dict(segments_of(one_branch.grids)) if one_branch is not None else {}
        self.via = dict(segments_of([one_branch.finer])) if one_branch is not None else {}
        self.timesteps = torch.tensor(timesteps or tuple(self.next_of) or range(schedule.num_train_timesteps))
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
            prediction=self.prediction,
            one_branch=self.one_branch,
        )

    def draw(self, step: int) -> Batch:
        """Images, uniform t and normal eps: all from generators that are seeded by (seed, step)."""
        pixels, labels = self.stream.batch(step)
        x_0, y = torch.from_numpy(pixels), torch.from_numpy(labels)
        generator = torch.Generator().manual_seed(seeds.derive(self.seed, "draw", step))
        t = self.timesteps[torch.randint(0, len(self.timesteps), y.shape, generator=generator)]
        eps = torch.randn(x_0.shape, generator=generator)
        uniform = torch.rand(y.shape, generator=generator)
        target = predictions.of(x_0, eps, self.schedule.alphas_cumprod[t].view(-1, 1, 1, 1), prediction=self.prediction)
        w = None if self.one_branch is None else self.one_branch.scale(uniform)
        return Batch(x_t=self.schedule.add_noise(x_0, eps, t), t=t, y=y, target=target, uniform=uniform, w=w)

    @torch.no_grad()
    def complete(self, batch: Batch) -> Batch:
        """Run the teacher: once on both branches stacked, or along its guided path."""
        if self.teacher is None:
            return batch
        if self.one_branch is not None:
            return self._guided(batch, self.teacher, self.one_branch)
        with (
            self._autocast(batch),
            self.features(self.teacher) if self.features else nullcontext([]) as features,
        ):
            uncond, cond = self.teacher.branches(batch.x_t, batch.t, batch.y)
        kept = guidance.by_branch(features[0]).float() if features else None
        uncond, cond = (
            self.teacher.interface.convert(branch.float(), batch.x_t, batch.t, self.prediction)
            for branch in (uncond, cond)
        )
        return replace(batch, teacher_uncond=uncond, teacher_cond=cond, teacher_features=kept)

    def _autocast(self, batch: Batch) -> torch.autocast:
        enabled = self.precision in AUTOCAST
        return torch.autocast(batch.x_t.device.type, AUTOCAST.get(self.precision), enabled=enabled)

    def _guided(self, batch: Batch, teacher: TorchDenoiser, how: GuidedDraws) -> Batch:
        if how.skip:
            s = (batch.t - how.skip).clamp(min=CLEAN)
            with self._autocast(batch):
                x_s = guided_targets.path(
                    *(teacher, batch.x_t, batch.t, s, batch.y, batch.scales()), steps=1, clip=how.clip
                )
            return replace(batch, s=s, target=x_s)
        t = batch.t.tolist()
        s = torch.tensor([self.next_of.get(each, CLEAN) for each in t], device=batch.t.device)
        via = torch.tensor([self.via[each] for each in t], device=batch.t.device) if how.finer else None
        with self._autocast(batch):
            target = guided_targets.target(
                *(teacher, batch.x_t, batch.t, s, batch.y, batch.scales()),
                steps=how.teacher_steps,
                clip=how.clip,
                prediction=self.prediction,
                via=via,
            )
        return replace(batch, target=target)
