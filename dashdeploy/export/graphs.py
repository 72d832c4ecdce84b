"""The graphs that are exported, as torch modules with positional tensors in and out."""

from __future__ import annotations

import copy

import torch
from torch import nn

from dashdeploy.diffusion.denoiser import TorchDenoiser

GUIDED_INPUTS = ("x", "t", "y", "w")
GUIDED_OUTPUT = "eps"


class Guided(nn.Module):
    """x (B, C, H, W) float32, t, y (B,) int64, w (B,) float32 -> guided eps (B, C, H, W) float32.

    t, y and w are per image, so that a server may batch requests with different labels and guidance.
    """

    def __init__(self, denoiser: TorchDenoiser) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return self.denoiser.guided(x, t, y, w)


def example_inputs(denoiser: TorchDenoiser, *, batch_size: int = 4) -> tuple[torch.Tensor, ...]:
    """Inputs of the right shapes and types to trace with."""
    interface = denoiser.interface
    t = torch.arange(batch_size) * (interface.schedule.num_train_timesteps // batch_size)
    y = torch.arange(batch_size) % interface.num_classes
    return torch.zeros((batch_size, *interface.image_shape)), t, y, torch.full((batch_size,), 2.0)


class InstanceGroupNorm(nn.Module):
    """GroupNorm written as instance normalisation over reshaped groups: same values, other ONNX operators.

    ONNX Runtime's CPU provider has a kernel for InstanceNormalization and none for
    GroupNormalization, which it expands into nine elementwise and reduction operators.
    """

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.groups, self.eps, self.weight, self.bias = norm.num_groups, norm.eps, norm.weight, norm.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        grouped = x.reshape(x.shape[0], self.groups, -1)
        normal = nn.functional.instance_norm(grouped, eps=self.eps).reshape(x.shape)
        shape = (1, -1, *([1] * (x.dim() - 2)))
        return normal * self.weight.reshape(shape) + self.bias.reshape(shape)


def with_instance_group_norm(module: nn.Module) -> nn.Module:
    """A copy of the module with every GroupNorm replaced by its instance-normalisation form."""
    module = copy.deepcopy(module)
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.GroupNorm):
                setattr(parent, name, InstanceGroupNorm(child))
    return module
