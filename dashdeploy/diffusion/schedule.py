"""Noise schedule: betas, alphas_cumprod and signal-to-noise ratio over T timesteps."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dashdeploy.errors import UserError
from dashdeploy.recipe import schema

SCHEDULERS = ("DDIMScheduler", "DDPMScheduler", "DDIMParallelScheduler", "DDPMParallelScheduler")
"""diffusers' schedulers that have these betas; the sampler is always our own."""


@dataclass(frozen=True)
class NoiseSchedule:
    """betas (T,) float64; everything else follows from them. The last may be 1: zero terminal SNR, ᾱ_{T−1} = 0.

    Args:
        source: where the betas come from, for the message.

    Raises:
        UserError: they are not numbers between 0 and 1; or ᾱ of a timestep is 1 or 0 in float32, where nothing can be
            divided by √(1 − ᾱ) or √ᾱ.
    """

    betas: NDArray[np.float64]
    source: str = field(default="noise schedule", compare=False, repr=False)

    def __post_init__(self) -> None:
        betas = self.betas
        if not are_betas(betas):
            raise UserError(f"{self.source}: betas must be numbers between 0 and 1, one for each timestep")
        alphas_cumprod = self.alphas_cumprod
        inner = len(betas) - self.zero_terminal_snr
        bad = ((alphas_cumprod >= 1) | (alphas_cumprod <= 0))[:inner].nonzero()
        if len(bad):
            t = int(bad[0])
            what, advice = ("no noise", "larger") if alphas_cumprod[t] >= 1 else ("no signal", "smaller")
            raise UserError(
                f"{self.source}: at timestep {t} of {len(betas)} alphas_cumprod is {float(alphas_cumprod[t]):g} in "
                f"float32 (beta {betas[t]:.3g}): {what} is left, and no image can be computed from it. Take {advice} "
                f"betas{'' if advice == 'larger' else ', or fewer timesteps'}."
            )

    @property
    def num_train_timesteps(self) -> int:
        return len(self.betas)

    @property
    def zero_terminal_snr(self) -> bool:
        """Whether no signal is left at the last timestep: its beta is 1."""
        return bool(self.betas[-1] == 1)

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

    def scheduler_config(self, *, clip_sample: bool = True, prediction: str = "epsilon") -> dict[str, Any]:
        """The same schedule as a diffusers DDIMScheduler configuration.

        With ``use_clipped_model_output=clip_sample`` at each step, that scheduler's images are ours.

        Args:
            clip_sample: clip the predicted x_0 to [−1, 1]; false for latents, which have no fixed range.
            prediction: what the network predicts, a `Prediction`.
        """
        return {
            "_class_name": "DDIMScheduler",
            "num_train_timesteps": self.num_train_timesteps,
            "trained_betas": self.betas.tolist(),
            "prediction_type": prediction,
            "clip_sample": clip_sample,
            "clip_sample_range": 1.0,
            "set_alpha_to_one": True,
            "timestep_spacing": "trailing",
            "steps_offset": 0,
        }


def are_betas(betas: NDArray[np.float64]) -> bool:
    """Whether they are (T,) numbers between 0 and 1, of which the last may be 1."""
    return betas.ndim == 1 and len(betas) > 0 and bool((betas > 0).all() and (betas[:-1] < 1).all() and betas[-1] <= 1)


def from_recipe(config: schema.NoiseSchedule) -> NoiseSchedule:
    """The schedule of a recipe.

    linear: Ho et al. 2020. cosine: Nichol & Dhariwal 2021 Eq. 17, β clipped to [beta_start, beta_end].

    Raises:
        UserError: a timestep has no noise or no signal, see `NoiseSchedule`.
    """
    steps = config.num_train_timesteps
    if config.kind == "linear":
        betas = np.linspace(config.beta_start, config.beta_end, steps)
    else:
        betas = np.clip(cosine_betas(steps), config.beta_start, config.beta_end)
    return NoiseSchedule(betas, source="noise_schedule")


def cosine_betas(steps: int, *, offset: float = 0.008) -> NDArray[np.float64]:
    """β_t = 1 − f(t+1)/f(t), f(t) = cos²((t/T + s)/(1 + s)·π/2); unclipped."""
    f = np.cos((np.arange(steps + 1) / steps + offset) / (1 + offset) * math.pi / 2) ** 2
    return 1.0 - f[1:] / f[:-1]


def from_scheduler_config(config: dict[str, Any], *, source: str) -> NoiseSchedule:
    """The schedule of a diffusers DDPM/DDIM scheduler configuration; its prediction type is read by `prediction`.

    With rescale_betas_zero_snr the last ᾱ is 0, as in diffusers' DDIMScheduler.

    The sampler's settings are the recipe's: of those here, `ignored_settings` names what diffusers would do otherwise.

    Raises:
        UserError: a scheduler without betas, a beta schedule that is not supported, a timestep without noise or signal,
            zero SNR with eps prediction, or images of another range than [−1, 1].
    """
    scheduler = config.get("_class_name", "DDIMScheduler")
    if scheduler not in SCHEDULERS:
        raise UserError(
            f"{source}: it is a {scheduler}; supported are {', '.join(SCHEDULERS)}. For another DDPM, save its "
            "betas as a DDIMScheduler's configuration."
        )
    limit = config.get("clip_sample_range", 1.0)
    if config.get("clip_sample", True) and not config.get("thresholding") and limit != 1:
        raise UserError(
            f"{source}: clip_sample_range is {limit}: images are within [-1, 1] here, in training and in sampling. Set "
            "it to 1 if the model was trained on such images, or clip_sample to false if it was trained on latents."
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
    if betas.shape != (steps,) or not are_betas(betas):
        raise UserError(f"{source}: betas must be {steps} numbers between 0 and 1")
    if config.get("rescale_betas_zero_snr"):
        if config.get("prediction_type", "epsilon") == "epsilon":
            raise UserError(
                f"{source}: rescale_betas_zero_snr with prediction_type 'epsilon': at zero SNR eps says nothing of the "
                "image. Set prediction_type to what the model predicts (v_prediction, sample), or the rescaling to "
                "false if it was trained without."
            )
        betas = zero_terminal_snr(betas)
    return NoiseSchedule(betas, source=source)


def ignored_settings(config: dict[str, Any]) -> list[str]:
    """What a diffusers scheduler configuration asks of its sampler that ours does not do, a sentence each.

    clip_sample and timestep_spacing are the recipe's `sampling` to say. variance_type is of samplers that add noise
    (η > 0), which ours does not.
    """
    said = []
    if not config.get("set_alpha_to_one", True):
        said.append(
            "set_alpha_to_one is false, and samplers here end at the clean image all the same, not at alphas_cumprod[0]"
        )
    if config.get("thresholding"):
        said.append("thresholding is not done here: sampling.clip_sample clips to [-1, 1] or not at all")
    if config.get("steps_offset"):
        said.append(f"steps_offset {config['steps_offset']} is not added here: leading timesteps begin at 0")
    return said


def zero_terminal_snr(betas: NDArray[np.float64]) -> NDArray[np.float64]:
    """Betas shifted and scaled so that √ᾱ ends at 0 (Lin et al. 2024, Algorithm 1): the last is 1."""
    root = np.sqrt(np.cumprod(1.0 - betas))
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    alphas_cumprod = root**2
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
