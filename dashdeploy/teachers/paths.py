"""Teachers of other Gaussian paths than DDPM's, as Denoisers on T timesteps: rectified flow and EDM.

Every such path is x = α·x_0 + σ·eps, and its network is called with its own scaling of x and its own number for
the time. Divided by √(α² + σ²), x is DDPM's x_t with ᾱ = α²/(α² + σ²), and what the network says becomes a v prediction
(Salimans & Ho 2022) by two factors a timestep: v = skip·x_t + out·F(scale·x_t, time). DDIM then takes the steps that
Euler's method takes on the path itself, because both go along x_0 and eps in a straight line.

rectified flow (Liu et al. 2022, arXiv:2209.03003; SiT, arXiv:2401.08740): α = 1 − s, σ = s, F = eps − x_0, time = T·s.
EDM (Karras et al. 2022, arXiv:2206.00364, Table 1): α = 1, σ = σ, F preconditioned, time = ln(σ)/4.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dashdeploy.diffusion.denoiser import Interface, TorchDenoiser
from dashdeploy.diffusion.prediction import Prediction
from dashdeploy.errors import UserError

Array = NDArray[np.float64]


@dataclass(frozen=True)
class GaussianPath:
    """How a network's path becomes DDPM's; each (T,) float64, from the least noise to the most.

    Attributes:
        alphas_cumprod: ᾱ; 0 at the end where no signal is left there.
        scale: x for the network is scale·x_t.
        time: the number that the network takes for the timestep.
        skip, out: v = skip·x_t + out·F.
    """

    alphas_cumprod: Array
    scale: Array
    time: Array
    skip: Array
    out: Array

    @property
    def betas(self) -> Array:
        """1 − ᾱ_t/ᾱ_(t−1)."""
        before = np.concatenate([[1.0], self.alphas_cumprod[:-1]])
        return 1.0 - self.alphas_cumprod / before


def from_scheduler_config(config: dict[str, Any], *, source: str) -> GaussianPath | None:
    """The path of a diffusers scheduler's configuration; None: it is no other than DDPM's.

    Raises:
        UserError: a value of a wrong type or range, or a setting that makes it another path.
    """
    make = PATHS.get(str(config.get("_class_name")))
    return None if make is None else make(config, source)


def _flow(config: dict[str, Any], source: str) -> GaussianPath:
    for key in ("use_dynamic_shifting", "invert_sigmas", "shift_terminal"):
        if config.get(key):
            raise UserError(
                f"{source}: {key} is {config[key]!r}: the path then depends on more than the timestep. Set it to "
                f"{'null' if key == 'shift_terminal' else 'false'}, and shift to that of the model's image size."
            )
    steps, shift = _steps(config, source), _number(config, "shift", 1.0, source)
    plain = np.arange(1, steps + 1) / steps
    s = shift * plain / (shift * plain + 1 - plain)
    norm = np.hypot(1 - s, s)
    # x_s = norm·x_t, and v = √ᾱ·eps − √(1 − ᾱ)·x_0 with eps = x_s + (1 − s)·F and x_0 = x_s − s·F.
    return GaussianPath(((1 - s) / norm) ** 2, norm, s * steps, 1 - 2 * s, norm)


def _edm(config: dict[str, Any], source: str) -> GaussianPath:
    steps = _steps(config, source)
    low, high = _number(config, "sigma_min", 0.002, source), _number(config, "sigma_max", 80.0, source)
    data, rho = _number(config, "sigma_data", 0.5, source), _number(config, "rho", 7.0, source)
    if low >= high:
        raise UserError(f"{source}: sigma_min {low:g} is not below sigma_max {high:g}")
    kind, predicts = config.get("sigma_schedule", "karras"), config.get("prediction_type", "epsilon")
    if kind == "karras":
        sigma = np.linspace(low ** (1 / rho), high ** (1 / rho), steps) ** rho
    elif kind == "exponential":
        sigma = np.geomspace(low, high, steps)
    else:
        raise UserError(f"{source}: sigma_schedule {kind!r} is not supported; expected karras or exponential")
    if predicts not in ("epsilon", "v_prediction"):
        raise UserError(f"{source}: prediction_type {predicts!r} is not supported; expected epsilon or v_prediction")
    sign = 1.0 if predicts == "epsilon" else -1.0
    h, both = np.sqrt(1 + sigma**2), np.sqrt(sigma**2 + data**2)
    # x = h·x_t; D = data²/both²·x + sign·σ·data/both·F is x_0, and v = x_t/σ − D·h/σ.
    return GaussianPath(1 / h**2, h / both, np.log(sigma) / 4, sigma * (1 - data**2) / both**2, -sign * h * data / both)


PATHS: dict[str, Callable[[dict[str, Any], str], GaussianPath]] = {
    "FlowMatchEulerDiscreteScheduler": _flow,
    "EDMEulerScheduler": _edm,
    "EDMDPMSolverMultistepScheduler": _edm,
}
"""diffusers' scheduler -> its path."""
PREDICTION: Prediction = "v_prediction"
"""What the Denoiser predicts, whatever its network does."""


def _steps(config: dict[str, Any], source: str) -> int:
    steps = config.get("num_train_timesteps", 1000)
    if not isinstance(steps, int) or isinstance(steps, bool) or not 1 <= steps <= 100_000:
        raise UserError(f"{source}: num_train_timesteps must be a whole number from 1 to 100,000, got {steps!r}")
    return steps


def _number(config: dict[str, Any], key: str, default: float, source: str) -> float:
    value = config.get(key, default)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1e6:
        raise UserError(f"{source}: {key} must be a number above 0, got {value!r}")
    return float(value)


class PathDenoiser(TorchDenoiser):
    """A network of another path as a Denoiser that predicts v; see the module."""

    table: torch.Tensor

    def __init__(self, unet: Any, interface: Interface, path: GaussianPath) -> None:
        super().__init__(unet, interface)
        self.path = path
        rows = np.stack([path.scale, path.time, path.skip, path.out], axis=1)
        self.register_buffer("table", torch.from_numpy(rows).float(), persistent=False)

    @property
    def is_native(self) -> bool:
        return False

    def around(self, unet: Any, interface: Interface | None = None) -> PathDenoiser:
        return PathDenoiser(unet, interface or self.interface, self.path)

    def _output(self, x: torch.Tensor, t: torch.Tensor, condition: Any) -> torch.Tensor:
        scale, time, skip, out = self.table[t].unbind(1)
        scale, skip, out = (factor.view(-1, 1, 1, 1) for factor in (scale, skip, out))
        return skip * x + out * super()._output(scale * x, time, condition)
