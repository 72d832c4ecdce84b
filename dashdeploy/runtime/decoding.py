"""Latents to images: by the decoder graph of an artifact, or by an autoencoder in torch."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import torch

from dashdeploy.autoencoder import DECODED_AT_ONCE, Autoencoder
from dashdeploy.diffusion.denoiser import TorchDenoiser
from dashdeploy.diffusion.pixels import from_uint8
from dashdeploy.errors import UserError


class Decode(Protocol):
    """Some latents (B, c, h, w) float32 at once -> images (B, C, H, W), float32 in [−1, 1] or uint8."""

    def __call__(self, latents: torch.Tensor, /) -> torch.Tensor: ...


class InParts:
    """A `model.Decoder` that decodes a few images at a time, so that a large batch takes no more memory.

    Raises, when it is called:
        UserError: an image is not finite.
    """

    def __init__(self, decode: Decode, *, at_once: int) -> None:
        self.decode, self.at_once = decode, at_once

    @torch.no_grad()
    def __call__(self, latents: torch.Tensor) -> torch.Tensor:
        return torch.cat([self._part(part) for part in latents.split(self.at_once)])

    def _part(self, latents: torch.Tensor) -> torch.Tensor:
        images = self.decode(latents.contiguous())
        if images.dtype == torch.uint8:
            return from_uint8(images)
        if not images.isfinite().all():
            raise UserError(
                "the decoder gave NaN or Inf of finite latents: its precision is too low for it, or it is damaged. "
                "Export it again with vae: {precision: fp32}."
            )
        return images


def attach(denoiser: TorchDenoiser, autoencoder: Autoencoder) -> InParts:
    """The decoder of a latent model in torch, on the autoencoder's device; it is told of in the denoiser's interface.

    Raises:
        UserError: it decodes other latents than the denoiser makes.
    """
    decoded = autoencoder.image_shape(denoiser.interface.image_shape)
    denoiser.interface = replace(denoiser.interface, latents=True, decoded=decoded)
    return InParts(autoencoder.decode, at_once=DECODED_AT_ONCE)
