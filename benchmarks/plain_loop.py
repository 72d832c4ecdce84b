"""The straightforward training loop that train_speed.py measures against: plain PyTorch, one call a step.

A DataLoader, fresh noise, one forward for each branch, autocast where asked, AdamW, a clipped gradient norm, and the
EMA parameter by parameter in Python, as training scripts of diffusion models have it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from dashdeploy.data.images import LabelledImages, to_float
from dashdeploy.diffusion.denoiser import TorchDenoiser
from dashdeploy.objectives.dash import Dash
from dashdeploy.recipe.schema import Distill, Teach
from dashdeploy.training.timestep_weights import TimestepWeights


class Plain:
    """A model in training; `teach` and `distill` take one step and return its loss. objective: DASH's three terms."""

    def __init__(
        self,
        model: TorchDenoiser,
        data: LabelledImages,
        config: Teach | Distill,
        weights: TimestepWeights,
        *,
        teacher: TorchDenoiser | None = None,
    ) -> None:
        self.model, self.config, self.weights, self.teacher = model.train(), config, weights, teacher
        self.null = model.interface.null_class
        self.alphas_cumprod = model.interface.schedule.alphas_cumprod.float()
        self.ema = copy.deepcopy(model.unet)
        self.parameters = [p for p in [*model.parameters(), *weights.parameters()] if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=config.learning_rate, weight_decay=config.weight_decay)
        images = TensorDataset(torch.from_numpy(to_float(data.images)), torch.from_numpy(data.labels))
        self.loader = DataLoader(images, batch_size=config.batch_size, shuffle=True, drop_last=True)
        self.batches = self.endless()

    def endless(self) -> Iterator[list[torch.Tensor]]:
        while True:
            yield from self.loader

    def noised(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """x_t, t, y, eps."""
        x_0, y = next(self.batches)
        t = torch.randint(0, len(self.alphas_cumprod), (len(y),))
        eps = torch.randn_like(x_0)
        alpha = self.alphas_cumprod[t].view(-1, 1, 1, 1)
        return alpha.sqrt() * x_0 + (1 - alpha).sqrt() * eps, t, y, eps

    def autocast(self) -> torch.autocast:
        return torch.autocast("cpu", torch.bfloat16, enabled=self.config.precision == "bf16")

    def teach(self) -> float:
        """Denoising with label dropout."""
        assert isinstance(self.config, Teach)
        x_t, t, y, eps = self.noised()
        y = torch.where(torch.rand(len(y)) < self.config.label_dropout, torch.full_like(y, self.null), y)
        with self.autocast():
            found = self.model(x_t, t, y)
        return self.update((self.weights(t, t) * self.mse(found, eps)).mean())

    def distill(self) -> float:
        """The teacher's two outputs, the student's two, and the three terms."""
        terms = self.config.objective  # type: ignore[union-attr]
        assert self.teacher is not None and isinstance(terms, Dash)
        x_t, t, y, eps = self.noised()
        null = torch.full_like(y, self.null)
        with torch.no_grad(), self.autocast():
            teacher_cond, teacher_uncond = self.teacher(x_t, t, y), self.teacher(x_t, t, null)
        with self.autocast():
            cond, uncond = self.model(x_t, t, y), self.model(x_t, t, null)
        loss = terms.imitation * self.mse(cond, teacher_cond) + terms.unconditional * self.mse(uncond, teacher_uncond)
        loss = loss + terms.anchor * self.mse(cond, eps)
        return self.update((self.weights(t, t) * loss).mean())

    def mse(self, found: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        return F.mse_loss(found.float(), wanted.float(), reduction="none").mean((1, 2, 3))

    def update(self, loss: torch.Tensor) -> float:
        """Backward, clip, step, EMA."""
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, self.config.gradient_clip)
        self.optimizer.step()
        decay = self.config.ema_decay
        assert isinstance(decay, float)
        with torch.no_grad():
            for kept, new in zip(self.ema.parameters(), self.model.unet.parameters(), strict=True):
                kept.mul_(decay).add_(new, alpha=1 - decay)
        return loss.item()
