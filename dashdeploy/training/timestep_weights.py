"""Timestep weights ŵ_t of the loss: the paper's TIRT (arXiv:2606.00798 Eq. 2) and its alternatives.

    tirt         ω_t = min(SNR_t, γ)·sigmoid(λ_t),  ŵ_t = ω_t / mean over all T of ω
    published    the same ω, divided by its mean over the batch, as the authors' code does
    min_snr_x0   ω_t = min(SNR_t, γ)                (TIRT at λ = 0, up to a constant)
    min_snr_eps  ω_t = min(1, γ / SNR_t)            (Hang et al. 2023, eps-prediction)
    min_snr_v    ω_t = min(SNR_t, γ) / (SNR_t + 1)  (the same, v-prediction)
    uniform      ω_t = 1
    uncertainty  loss_t·exp(−u_t) + u_t             (Kendall et al. 2018; ω ∝ 1/E[loss_t] at the optimum)
    loss_ema     ω_t ∝ (running geometric mean of loss_t)^α   (weights difficult timesteps up)

All but `published` and `uncertainty` are normalised over all T, so that E_t[ŵ_t] = 1.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn

from dashdeploy.diffusion.schedule import NoiseSchedule
from dashdeploy.errors import UserError, reading
from dashdeploy.recipe.schema import LEARNED_WEIGHTS
from dashdeploy.recipe.schema import TimestepWeights as Config
from dashdeploy.weights_file import write_safetensors

FILE = "timestep_weights.safetensors"
STARVED = 0.01
"""A decile of t that holds a smaller share of the weight than this is starved: its timesteps hardly train."""
LOSS_EMA_MOMENTUM = 0.99


class TimestepWeights(nn.Module):
    """ŵ_t as a module: λ (T,) float32 is its parameter while it is learnt, a buffer once frozen."""

    base: torch.Tensor
    lam: torch.Tensor

    def __init__(self, config: Config, schedule: NoiseSchedule, *, frozen_lambda: torch.Tensor | None = None) -> None:
        super().__init__()
        self.config, self.schedule_sha256 = config, schedule.sha256
        self.register_buffer("base", _base(config, schedule), persistent=False)
        zeros = torch.zeros(schedule.num_train_timesteps)
        if frozen_lambda is not None:
            self.register_buffer("lam", frozen_lambda.clone())
        elif config.kind in ("tirt", "published", "uncertainty"):
            self.lam = nn.Parameter(zeros)
        else:
            # loss_ema: the running mean of log loss. Kinds that learn nothing keep zeros.
            self.register_buffer("lam", zeros)
        self.frozen = frozen_lambda is not None

    @property
    def learns(self) -> bool:
        """Whether the weights change during training."""
        return self.config.kind in LEARNED_WEIGHTS and not self.frozen

    @property
    def observes(self) -> bool:
        """Whether `observe` needs the losses of every step."""
        return self.config.kind == "loss_ema" and not self.frozen

    def omega(self) -> torch.Tensor:
        """ω (T,) float32, before normalisation."""
        kind = self.config.kind
        if kind in ("tirt", "published"):
            return self.base * torch.sigmoid(self.lam)
        if kind == "uncertainty":
            return torch.exp(-self.lam)
        if kind == "loss_ema":
            return torch.exp(self.config.alpha * self.lam)
        return self.base

    def forward(self, t: torch.Tensor, t_batch: torch.Tensor) -> torch.Tensor:
        """ŵ for t (B,) int64 -> (B,); t_batch: timesteps of the whole batch over all processes."""
        omega = self.omega()
        if self.config.kind == "published":
            return omega[t] / omega[t_batch].mean()
        if self.config.kind == "uncertainty":
            return omega[t]
        return omega[t] / omega.mean()

    def regulariser(self, t: torch.Tensor) -> torch.Tensor:
        """The amount added to each sample's loss, (B,): u_t for `uncertainty` while it is learnt, else 0."""
        if self.config.kind == "uncertainty" and not self.frozen:
            return self.lam[t]
        return torch.zeros_like(t, dtype=torch.float32)

    @torch.no_grad()
    def observe(self, t: torch.Tensor, loss: torch.Tensor) -> None:
        """Learn from unweighted losses (N,) at t (N,), of all processes, if the kind is `loss_ema`."""
        if not self.observes:
            return
        sums = torch.zeros_like(self.lam).index_add_(0, t, loss.float().clamp_min(1e-12).log())
        counts = torch.zeros_like(self.lam).index_add_(0, t, torch.ones_like(t, dtype=torch.float32))
        seen = counts > 0
        mean = sums[seen] / counts[seen]
        # A timestep's first observation replaces its zero.
        old = torch.where(self.lam[seen] == 0, mean, self.lam[seen])
        self.lam[seen] = LOSS_EMA_MOMENTUM * old + (1 - LOSS_EMA_MOMENTUM) * mean

    @torch.no_grad()
    def mass_by_decile(self) -> list[float]:
        """Share of the weight in each tenth of t, from clean to noise; sums to 1."""
        omega = self.omega().double().cpu()
        return [float(part.sum() / omega.sum()) for part in omega.tensor_split(10)]

    def starved(self) -> list[int]:
        """Deciles (0 = cleanest) that hold less than STARVED of the weight."""
        return starved(self.mass_by_decile())

    def save(self, folder: Path) -> None:
        """Write λ and the settings that a transfer checks; kinds that learn nothing write no file."""
        if self.config.kind not in LEARNED_WEIGHTS:
            return
        metadata = {
            "kind": self.config.kind,
            "gamma": repr(self.config.gamma),
            "alpha": repr(self.config.alpha),
            "normaliser": "batch" if self.config.kind == "published" else "all_timesteps",
            "num_train_timesteps": str(len(self.lam)),
            "schedule_sha256": self.schedule_sha256,
            "mass_by_decile": json.dumps([round(m, 6) for m in self.mass_by_decile()]),
        }
        write_safetensors(folder / FILE, {"lambda": self.lam.detach().float().cpu().contiguous()}, metadata)


def starved(masses: Sequence[float]) -> list[int]:
    """The indices of the shares that are less than STARVED."""
    return [i for i, mass in enumerate(masses) if mass < STARVED]


def _base(config: Config, schedule: NoiseSchedule) -> torch.Tensor:
    snr = schedule.snr
    if config.kind in ("tirt", "published", "min_snr_x0"):
        return snr.clamp(max=config.gamma).float()
    if config.kind == "min_snr_eps":
        return (config.gamma / snr).clamp(max=1.0).float()
    if config.kind == "min_snr_v":
        return (snr.clamp(max=config.gamma) / (snr + 1)).float()
    return torch.ones(schedule.num_train_timesteps)


def transfer(config: Config, schedule: NoiseSchedule, teacher: Path) -> TimestepWeights:
    """TIRT Transfer: the student's weights, with the teacher's λ copied and frozen where the kind has one.

    Raises:
        UserError: λ is missing, or was learnt for another kind, γ, T or noise schedule.
    """
    if config.kind not in LEARNED_WEIGHTS:
        return TimestepWeights(config, schedule)
    path = teacher / FILE
    free = "uniform, min_snr_eps, min_snr_v, min_snr_x0"
    if not path.is_file():
        raise UserError(
            f"distill.timestep_weights.kind {config.kind!r} takes λ from the teacher, and {path} does not exist. "
            f"Train the teacher with teach.timestep_weights.kind={config.kind}, or choose a kind without λ: {free}."
        )
    with reading(path, "safetensors file with λ", again="Train the teacher again."), safe_open(path, "pt") as file:
        recorded, lam = file.metadata() or {}, file.get_tensor("lambda")
        recorded_gamma = float(recorded.get("gamma", "nan"))
    lam_kind = LEARNED_WEIGHTS[config.kind]
    problems = []
    if LEARNED_WEIGHTS.get(recorded.get("kind", "")) != lam_kind:
        problems.append(f"kind is {recorded.get('kind')!r} there and {config.kind!r} here")
    if lam_kind == "tirt" and recorded_gamma != config.gamma:
        problems.append(f"gamma is {recorded.get('gamma')} there and {config.gamma} here")
    if lam.shape != (schedule.num_train_timesteps,):
        problems.append(f"λ has shape {tuple(lam.shape)} and the noise schedule {schedule.num_train_timesteps}")
    elif recorded.get("schedule_sha256") != schedule.sha256:
        problems.append("λ was learnt with another noise schedule (its hash differs)")
    if not torch.isfinite(lam).all():
        problems.append("λ holds NaN or Inf")
    if problems:
        raise UserError(
            f"{path}: this λ cannot be transferred: {'; '.join(problems)}. Or choose a kind without λ: {free}."
        )
    return TimestepWeights(config, schedule, frozen_lambda=lam)
