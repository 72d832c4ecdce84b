"""The one contract: everything that predicts noise, in torch or out of it, is a Denoiser."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from dashdeploy.diffusion import guidance
from dashdeploy.diffusion.prediction import Prediction, to_eps
from dashdeploy.diffusion.schedule import NoiseSchedule
from dashdeploy.errors import UserError


@dataclass(frozen=True)
class Interface:
    """What a caller must know of a denoiser. The null class is index K."""

    num_classes: int
    image_shape: tuple[int, int, int]
    schedule: NoiseSchedule

    @property
    def null_class(self) -> int:
        return self.num_classes

    def check_labels(self, labels: torch.Tensor) -> None:
        """Refuse a label outside of 0..K−1.

        Raises:
            UserError: it names the first bad label and the valid range.
        """
        bad = labels[(labels < 0) | (labels >= self.num_classes)]
        if bad.numel():
            raise UserError(
                f"class index {int(bad[0])} is out of range: this model has classes 0..{self.num_classes - 1}"
            )


class Denoiser(Protocol):
    """Predicts noise. x_t (B, C, H, W) float32, t (B,) int64, y (B,) int64, w (B,) float32 -> (B, C, H, W) float32."""

    interface: Interface

    def __call__(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """eps for labels y (K = null class): one branch."""
        ...

    def branches(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(eps_uncond, eps_cond)."""
        ...

    def guided(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        """eps_uncond + w·(eps_cond − eps_uncond)."""
        ...


class TorchDenoiser(nn.Module):
    """A class-conditional diffusers network as a Denoiser: UNet2DModel or DiTTransformer2DModel.

    A network that predicts v or x_0 is converted to eps in float32. One with more than C output channels has a
    learned variance behind them (Nichol & Dhariwal 2021), which DDIM does not use: the first C are taken.
    """

    alphas_cumprod: torch.Tensor

    def __init__(self, unet: Any, interface: Interface, *, prediction: Prediction = "epsilon") -> None:
        super().__init__()
        # Any: diffusers' models are not fully typed.
        self.unet: Any = unet
        self.interface = interface
        self.prediction = prediction
        if prediction != "epsilon":
            self.register_buffer("alphas_cumprod", interface.schedule.alphas_cumprod, persistent=False)

    @property
    def device(self) -> torch.device:
        return next(self.unet.parameters()).device

    def around(self, unet: Any) -> TorchDenoiser:
        """The same denoiser around another form of its network."""
        return TorchDenoiser(unet, self.interface, prediction=self.prediction)

    def forward(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        output = self.unet(x, t, y, return_dict=False)[0]
        if output.shape[1] > self.interface.image_shape[0]:
            output = output[:, : self.interface.image_shape[0]]
        if self.prediction == "epsilon":
            return output
        return to_eps(output, x, self.alphas_cumprod[t], prediction=self.prediction)

    def branches(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(eps_uncond, eps_cond) by one forward over 2B."""
        return guidance.both_branches(self, x, t, y, null_class=self.interface.null_class)

    def guided(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        """Guided eps, float32; the graph that the ONNX export traces."""
        return self.combine(*self.branches(x, t, y), w)

    def combine(self, eps_uncond: torch.Tensor, eps_cond: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        """Guided eps, float32, of two branches that were predicted already; see `guidance.combine`."""
        return guidance.combine(eps_uncond, eps_cond, w)

    def drop_labels(self, y: torch.Tensor, dropped: torch.Tensor) -> torch.Tensor:
        """y (B,) with the null class where `dropped` (B,) bool is true."""
        return y.masked_fill(dropped, self.interface.null_class)
