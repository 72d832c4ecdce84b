"""Noise schedule: betas, alphas_cumprod and signal-to-noise ratio over T timesteps."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dashdeploy.errors import UserError
from dashdeploy.recipe import schema

SCHEDULERS = ("DDIMScheduler", "DDPMScheduler", "DDIMParallelScheduler", "DDPMParallelScheduler")
"""diffusers' schedulers that have these betas; the sampler is always our own."""
ZERO_SNR = 2.0**-24
"""ᾱ_{T−1} of a schedule with zero terminal SNR; the cosine schedule of diffusers ends at a tenth of it."""


@dataclass(frozen=True)
class NoiseSchedule:
    """betas (T,) float64; everything else follows from them."""

    betas: NDArray[np.float64]

    @property
    def num_train_timesteps(self) -> int:
        return len(self.betas)

    @property
    def alphas_cumprod(self) -> torch.Tensor:
        """ᾱ_t = Π (1 − β_s), (T,) float32, computed in float64."""
        return torch.from_numpy(np.cumprod(1.0 - self.betas)).float()

    @property
    def alphas_cumprod_from_clean(self) -> torch.Tensor:
        """ᾱ of timestep t at index t + 1, (T + 1,) float32: the clean image, t = −1, comes first with ᾱ = 1."""
        return torch.cat([torch.ones(1), self.alphas_cumprod])

    @property
    def snr(self) -> torch.Tensor:
        """SNR_t = ᾱ_t / (1 − ᾱ_t), (T,) float64."""
        alphas_cumprod = torch.from_numpy(np.cumprod(1.0 - self.betas))
        return alphas_cumprod / (1.0 - alphas_cumprod)

    @property
    def sha256(self) -> str:
        """Identity of the schedule: hash of ᾱ as little-endian float32."""
        return hashlib.sha256(self.alphas_cumprod.numpy().astype("<f4").tobytes()).hexdigest()

    def add_noise(self, x_0: torch.Tensor, eps: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """x_t = √ᾱ_t·x_0 + √(1 − ᾱ_t)·eps; x_0, eps (B, C, H, W), t (B,) int64."""
        alpha_bar = self.alphas_cumprod.to(x_0.device)[t].view(-1, 1, 1, 1)
        return alpha_bar.sqrt() * x_0 + (1.0 - alpha_bar).sqrt() * eps

    def scheduler_config(self) -> dict[str, Any]:
        """The same schedule as a diffusers DDIMScheduler configuration."""
        return {
            "_class_name": "DDIMScheduler",
            "num_train_timesteps": self.num_train_timesteps,
            "trained_betas": self.betas.tolist(),
            "prediction_type": "epsilon",
            "clip_sample": True,
            "clip_sample_range": 1.0,
            "set_alpha_to_one": True,
            "timestep_spacing": "trailing",
            "steps_offset": 0,
        }


def from_recipe(config: schema.NoiseSchedule) -> NoiseSchedule:
    """The schedule of a recipe.

    linear: Ho et al. 2020. cosine: Nichol & Dhariwal 2021 Eq. 17, β clipped to [beta_start, beta_end].
    """
    steps = config.num_train_timesteps
    if config.kind == "linear":
        return NoiseSchedule(np.linspace(config.beta_start, config.beta_end, steps))
    return NoiseSchedule(np.clip(cosine_betas(steps), config.beta_start, config.beta_end))


def cosine_betas(steps: int, *, offset: float = 0.008) -> NDArray[np.float64]:
    """β_t = 1 − f(t+1)/f(t), f(t) = cos²((t/T + s)/(1 + s)·π/2); unclipped."""
    f = np.cos((np.arange(steps + 1) / steps + offset) / (1 + offset) * math.pi / 2) ** 2
    return 1.0 - f[1:] / f[:-1]


def from_scheduler_config(config: dict[str, Any], *, source: str) -> NoiseSchedule:
    """The schedule of a diffusers DDPM/DDIM scheduler configuration; its prediction type is read by `prediction`.

    With rescale_betas_zero_snr the last ᾱ would be 0, where eps says nothing of x_0 and no sampler can divide by √ᾱ;
    it becomes ZERO_SNR, as in diffusers' Euler scheduler.

    Raises:
        UserError: a scheduler without betas, a beta schedule that is not supported, or zero SNR with eps prediction.
    """
    scheduler = config.get("_class_name", "DDIMScheduler")
    if scheduler not in SCHEDULERS:
        raise UserError(
            f"{source}: it is a {scheduler}; supported are {', '.join(SCHEDULERS)}. A model of another kind of noise "
            "(flow matching, EDM) is not a DDPM; for one that is, save its betas as a DDIMScheduler's configuration."
        )
    steps = int(config.get("num_train_timesteps", 1000))
    start, end = float(config.get("beta_start", 1e-4)), float(config.get("beta_end", 0.02))
    kind = config.get("beta_schedule", "linear")
    if config.get("trained_betas") is not None:
        betas = np.asarray(config["trained_betas"], np.float64)
    elif kind in BETAS:
        betas = BETAS[kind](start, end, steps)
    else:
        raise UserError(
            f"{source}: beta_schedule {kind!r} is not supported; expected {', '.join(BETAS)}, or trained_betas"
        )
    if betas.shape != (steps,) or not (np.isfinite(betas).all() and (betas > 0).all() and (betas < 1).all()):
        raise UserError(f"{source}: betas must be {steps} numbers between 0 and 1")
    if config.get("rescale_betas_zero_snr"):
        if config.get("prediction_type", "epsilon") == "epsilon":
            raise UserError(
                f"{source}: rescale_betas_zero_snr with prediction_type 'epsilon': at zero SNR eps says nothing of the "
                "image. Set prediction_type to what the model predicts (v_prediction, sample), or the rescaling to "
                "false if it was trained without."
            )
        betas = zero_terminal_snr(betas)
    return NoiseSchedule(betas)


def zero_terminal_snr(betas: NDArray[np.float64]) -> NDArray[np.float64]:
    """Betas shifted and scaled so that √ᾱ ends at 0 (Lin et al. 2023, Algorithm 1), but ᾱ no lower than ZERO_SNR."""
    root = np.sqrt(np.cumprod(1.0 - betas))
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    alphas_cumprod = np.maximum(root**2, ZERO_SNR)
    return 1.0 - alphas_cumprod / np.concatenate([[1.0], alphas_cumprod[:-1]])


def _scaled_linear(start: float, end: float, steps: int) -> NDArray[np.float64]:
    return np.linspace(start**0.5, end**0.5, steps) ** 2


def _capped_cosine(start: float, end: float, steps: int) -> NDArray[np.float64]:
    return np.minimum(cosine_betas(steps), 0.999)


def _sigmoid(start: float, end: float, steps: int) -> NDArray[np.float64]:
    return start + (end - start) / (1.0 + np.exp(-np.linspace(-6, 6, steps)))


BETAS: dict[str, Callable[[float, float, int], NDArray[np.float64]]] = {
    "linear": np.linspace,
    "scaled_linear": _scaled_linear,
    "squaredcos_cap_v2": _capped_cosine,
    "sigmoid": _sigmoid,
}
"""diffusers' beta_schedule -> (beta_start, beta_end, T) -> betas (T,) float64."""
