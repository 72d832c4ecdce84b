"""Noise schedule: betas, alphas_cumprod and signal-to-noise ratio over T timesteps."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dashdeploy.errors import UserError
from dashdeploy.recipe import schema


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
    """The schedule of a diffusers DDPM/DDIM scheduler configuration.

    Raises:
        UserError: a prediction type or a beta schedule that is not supported.
    """
    prediction = config.get("prediction_type", "epsilon")
    if prediction != "epsilon":
        raise UserError(f"{source}: prediction_type {prediction!r} is not supported; expected 'epsilon'")
    steps = int(config.get("num_train_timesteps", 1000))
    start, end = float(config.get("beta_start", 1e-4)), float(config.get("beta_end", 0.02))
    kind = config.get("beta_schedule", "linear")
    if config.get("trained_betas") is not None:
        betas = np.asarray(config["trained_betas"], np.float64)
    elif kind == "linear":
        betas = np.linspace(start, end, steps)
    elif kind == "scaled_linear":
        betas = np.linspace(start**0.5, end**0.5, steps) ** 2
    elif kind == "squaredcos_cap_v2":
        betas = np.minimum(cosine_betas(steps), 0.999)
    else:
        raise UserError(
            f"{source}: beta_schedule {kind!r} is not supported; "
            "expected linear, scaled_linear or squaredcos_cap_v2, or trained_betas"
        )
    if betas.shape != (steps,) or not (np.isfinite(betas).all() and (betas > 0).all() and (betas < 1).all()):
        raise UserError(f"{source}: betas must be {steps} numbers between 0 and 1")
    return NoiseSchedule(betas)
