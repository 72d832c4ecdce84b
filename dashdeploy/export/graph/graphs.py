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
from dashdeploy.diffusion.denoiser import TorchDenoiser
from dashdeploy.diffusion.sampling import ddim_step


class Guided(nn.Module):
    """x, t, y, w -> guided eps (B, C, H, W) float32, from both branches in one batch of 2B."""

    def __init__(self, denoiser: TorchDenoiser) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return self.denoiser.guided(x, t, y, w)


class Cond(nn.Module):
    """x, t, y -> eps of the conditional branch (y = K: of the unconditional one): half the work of `Guided`."""

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
        eps = self.denoiser.guided(x, t, y, w)
        now, previous = (self.alphas[i + 1].view(-1, 1, 1, 1) for i in (t, t_prev))
        x_prev = ddim_step(x, eps, now, previous, clip_sample=self.clip_sample)
        # Clipping makes an infinite eps a finite x, and in some runtimes NaN too: a host could not tell.
        return torch.where(eps.abs() <= torch.finfo(eps.dtype).max, x_prev, eps)


@dataclass(frozen=True)
class TracedGraph:
    """How a graph is made and called: its module, and the names of what goes in and comes out, in order."""

    module: Callable[..., nn.Module]
    inputs: tuple[str, ...]
    output: str


GRAPHS: dict[GraphName, TracedGraph] = {
    "guided": TracedGraph(Guided, *SIGNATURES["guided"]),
    "cond": TracedGraph(Cond, *SIGNATURES["cond"]),
    "step": TracedGraph(Step, *SIGNATURES["step"]),
}
"""What torch.onnx traces. The sampler is not here: `sampler_graph` makes it from the step's ONNX graph."""
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
