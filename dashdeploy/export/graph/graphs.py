"""The parts that the exported graphs are made of, as torch modules with positional tensors in and out.

B images; x (B, C, H, W) float32; t, t_prev, y (B,) int64; w (B,) float32. All of t, t_prev, y and w are per
image, so that a server may batch requests with different labels, guidance and even steps.
"""

from __future__ import annotations

import torch
from torch import nn

from dashdeploy.autoencoder import finite_clip
from dashdeploy.diffusion import guidance
from dashdeploy.diffusion.denoiser import Interface, TorchDenoiser
from dashdeploy.diffusion.sampling import ddim_step


class Network(nn.Module):
    """Of two branches x, t, y -> one of them (y = K: the unconditional one); of one branch x, t, y, w -> guided."""

    def __init__(self, denoiser: TorchDenoiser) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor, w: torch.Tensor | None = None) -> torch.Tensor:
        return self.denoiser(x, t, y).float() if w is None else self.denoiser.guided(x, t, y, w)


class Stack(nn.Module):
    """x, t, y -> what `Network` takes for both branches in one batch of 2B."""

    def __init__(self, interface: Interface) -> None:
        super().__init__()
        self.null_class = interface.null_class

    def forward(
        self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return guidance.stack(x, t, y, null_class=self.null_class)


class Combine(nn.Module):
    """What `Network` gave for both branches (2B, C, H, W), w -> the guided prediction (B, C, H, W) float32."""

    def forward(self, both: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return guidance.combine(*guidance.split(both, w.shape[0]), w)


class Update(nn.Module):
    """x, the guided prediction, t, t_prev -> x at t_prev, by one DDIM update (η = 0). t_prev = −1 means clean.

    ᾱ is gathered inside, from a table that begins with the clean image's 1: no index is negative.
    """

    alphas: torch.Tensor

    def __init__(self, interface: Interface, *, clip_sample: bool) -> None:
        super().__init__()
        self.prediction, self.clip_sample = interface.prediction, clip_sample
        self.register_buffer("alphas", interface.schedule.alphas_cumprod_from_clean)

    def forward(self, x: torch.Tensor, guided: torch.Tensor, t: torch.Tensor, t_prev: torch.Tensor) -> torch.Tensor:
        now, previous = (self.alphas[i + 1].view(-1, 1, 1, 1) for i in (t, t_prev))
        x_prev = ddim_step(x, guided, now, previous, clip_sample=self.clip_sample, prediction=self.prediction)
        # Clipping makes an infinite output a finite x, and in some runtimes NaN too: a host could not tell.
        return torch.where(guided.abs() <= torch.finfo(guided.dtype).max, x_prev, guided)


class Decode(nn.Module):
    """latents (B, c, h, w) float32 -> images (B, C, H, W) float32 in [−1, 1]; NaN and Inf stay.

    Args:
        autoencoder: an `Autoencoder`, or what `rewrite.autoencoder_for_export` has made of it.
    """

    def __init__(self, autoencoder: nn.Module) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        return finite_clip(self.autoencoder(latents).float())
