"""The graphs that are exported, as torch modules with positional tensors in and out.

B images; x (B, C, H, W) float32; t, t_prev, y (B,) int64; w (B,) float32. All of t, t_prev, y and w are per
image, so that a server may batch requests with different labels, guidance and even steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from dashdeploy.artifact import SIGNATURES, GraphName
from dashdeploy.autoencoder import finite_clip
from dashdeploy.diffusion.denoiser import TorchDenoiser
from dashdeploy.diffusion.sampling import ddim_step


class Guided(nn.Module):
    """x, t, y, w -> the guided prediction (B, C, H, W) float32: two branches in one batch of 2B, or one at w."""

    def __init__(self, denoiser: TorchDenoiser) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return self.denoiser.guided(x, t, y, w)


class Cond(nn.Module):
    """x, t, y -> one of two branches (y = K: the unconditional one): half the work of `Guided`."""

    def __init__(self, denoiser: TorchDenoiser) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.denoiser(x, t, y).float()


class Step(nn.Module):
    """x, t, t_prev, y, w -> x at t_prev: `Guided` and one DDIM update (η = 0). t_prev = −1 means clean.

    ᾱ is gathered inside, from a table that begins with the clean image's 1: no index is negative.
    """

    alphas: torch.Tensor

    def __init__(self, denoiser: TorchDenoiser, *, clip_sample: bool) -> None:
        super().__init__()
        self.denoiser, self.clip_sample = denoiser, clip_sample
        self.register_buffer("alphas", denoiser.interface.schedule.alphas_cumprod_from_clean)

    def forward(
        self, x: torch.Tensor, t: torch.Tensor, t_prev: torch.Tensor, y: torch.Tensor, w: torch.Tensor
    ) -> torch.Tensor:
        output = self.denoiser.guided(x, t, y, w)
        now, previous = (self.alphas[i + 1].view(-1, 1, 1, 1) for i in (t, t_prev))
        predicts = self.denoiser.interface.prediction
        x_prev = ddim_step(x, output, now, previous, clip_sample=self.clip_sample, prediction=predicts)
        # Clipping makes an infinite output a finite x, and in some runtimes NaN too: a host could not tell.
        return torch.where(output.abs() <= torch.finfo(output.dtype).max, x_prev, output)


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


@dataclass(frozen=True)
class TracedGraph:
    """How a graph is made and called: its module, and the names of what goes in, in order."""

    module: Callable[..., nn.Module]
    inputs: tuple[str, ...]


GRAPHS: dict[GraphName, TracedGraph] = {
    "guided": TracedGraph(Guided, SIGNATURES["guided"][0]),
    "cond": TracedGraph(Cond, SIGNATURES["cond"][0]),
    "step": TracedGraph(Step, SIGNATURES["step"][0]),
}
"""What torch.onnx traces of the student. The sampler is not here: `sampler_graph` makes it from the step's graph."""
SAMPLER_INPUTS, SAMPLER_OUTPUT = SIGNATURES["sampler"]


def example_inputs(denoiser: TorchDenoiser, names: tuple[str, ...], *, batch_size: int = 4) -> tuple[torch.Tensor, ...]:
    """Inputs of the right shapes and types to trace with, by name."""
    interface = denoiser.interface
    t = torch.arange(batch_size) * (interface.schedule.num_train_timesteps // batch_size)
    known = {
        "x": torch.zeros((batch_size, *interface.image_shape)),
        "t": t,
        "t_prev": t - 1,
        "y": torch.arange(batch_size) % interface.num_classes,
        "w": torch.full((batch_size,), 2.0),
    }
    return tuple(known[name] for name in names)
