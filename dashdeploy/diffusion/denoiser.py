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
    """What a caller must know of a denoiser. The null class is index K.

    Attributes:
        image_shape: (C, H, W).
        latents: it is known to predict the noise of latents, which nothing here decodes.
    """

    num_classes: int
    image_shape: tuple[int, int, int]
    schedule: NoiseSchedule
    latents: bool = False

    @property
    def null_class(self) -> int:
        return self.num_classes

    @property
    def makes_images(self) -> bool:
        """Whether its samples are grey or RGB images, and not latents."""
        return not self.latents and self.image_shape[0] in (1, 3)

    def check_labels(self, labels: torch.Tensor) -> None:
        """Refuse labels that are not (B,) int64, B ≥ 1, in 0..K−1. The null class is not a label to sample.

        Raises:
            UserError: it names the first bad label and the valid range.
        """
        if labels.dtype != torch.int64 or labels.dim() != 1 or not len(labels):
            raise UserError(
                f"labels must be class indices, one or more, (B,) int64; got {tuple(labels.shape)} {_dtype(labels)}"
            )
        bad = labels[(labels < 0) | (labels >= self.num_classes)]
        if bad.numel():
            raise UserError(
                f"class index {int(bad[0])} is out of range: this model has classes 0..{self.num_classes - 1}"
            )

    def check_start(self, noise: torch.Tensor, labels: torch.Tensor) -> None:
        """Refuse what no sampler can start from: bad labels, or noise that is not finite (B, C, H, W) float32.

        float64 passes too: a loop in torch may compute in it.

        Raises:
            UserError: what was given and what was expected.
        """
        self.check_labels(labels)
        expected = (len(labels), *self.image_shape)
        if noise.dtype not in (torch.float32, torch.float64) or tuple(noise.shape) != expected:
            raise UserError(
                f"noise must be {expected} float32 for {len(labels)} labels; got {tuple(noise.shape)} {_dtype(noise)}"
            )
        if not noise.isfinite().all():
            raise UserError("noise holds NaN or Inf; it must be standard normal")


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


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
