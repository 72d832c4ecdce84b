"""Rewrites of a diffusers network before it is exported: the same function in operators that deploy better."""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
from torch import nn

from dashdeploy.autoencoder import Autoencoder
from dashdeploy.diffusion.denoiser import TorchDenoiser

GroupNormForm = Literal["native", "instance"]
FloatPrecision = Literal["fp32", "fp16", "bf16"]
DTYPES: dict[FloatPrecision, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class InstanceGroupNorm(nn.Module):
    """GroupNorm written as instance normalisation over reshaped groups, in float32 whatever comes in.

    ONNX Runtime's CPU provider has a kernel for InstanceNormalization and none for
    GroupNormalization, which it expands into nine elementwise and reduction operators.
    """

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.groups, self.eps, self.weight, self.bias = norm.num_groups, norm.eps, norm.weight, norm.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        grouped = x.float().reshape(x.shape[0], self.groups, -1)
        normal = nn.functional.instance_norm(grouped, eps=self.eps).reshape(x.shape)
        shape = (1, -1, *([1] * (x.dim() - 2)))
        return (normal * self.weight.float().reshape(shape) + self.bias.float().reshape(shape)).to(x.dtype)


class FloatNorm(nn.Module):
    """GroupNorm or LayerNorm whose statistics and affine part are float32 whatever comes in."""

    def __init__(self, norm: nn.GroupNorm | nn.LayerNorm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x.float()).to(x.dtype)


class TimeTable(nn.Module):
    """The timestep embedding of every t in [0, T) as a table, computed once in float32: (B,) int64 -> (B, D).

    Sines of angles up to 1000 do not survive half precision; a gathered row does, and is fewer operators.
    """

    table: torch.Tensor

    def __init__(self, unet: Any, num_train_timesteps: int) -> None:
        super().__init__()
        with torch.no_grad():
            t = torch.arange(num_train_timesteps)
            self.register_buffer("table", unet.time_embedding(unet.time_proj(t).float()).float())

    def forward(self, t: torch.Tensor, condition: None = None) -> torch.Tensor:
        return self.table[t.long()]


class Integers(nn.Module):
    """Stands where diffusers projects t to sines, and passes t on to the table.

    diffusers casts what comes out to the network's type before the embedding; an integer above 2048 (float16)
    or 256 (bfloat16) would not survive that, so the row is looked up here already.
    """

    def __init__(self, table: TimeTable) -> None:
        super().__init__()
        self.table = table

    def forward(self, t: torch.Tensor) -> torch.Tensor:
        return self.table(t)


class AsIs(nn.Module):
    """Stands where diffusers embeds the projected t, which is a finished row already."""

    def forward(self, row: torch.Tensor, condition: None = None) -> torch.Tensor:
        return row


def for_export(denoiser: TorchDenoiser, *, group_norm: GroupNormForm, precision: FloatPrecision) -> TorchDenoiser:
    """A copy of the denoiser that computes in `precision`, float32 in and out.

    Kept in float32: normalisation, the timestep embedding (of a UNet a table, of a DiT its sines), and, outside of the
    network, the guidance combine and the sampler's update.
    """
    dtype = DTYPES[precision]
    unet = copy.deepcopy(denoiser.unet).eval()
    for parameter in unet.parameters():
        parameter.requires_grad_(False)
    # A DiT embeds t once a block: tables would outweigh what they replace, and its sines are float32 as they are.
    has_table = hasattr(unet, "time_embedding")
    table = TimeTable(unet, denoiser.interface.schedule.num_train_timesteps) if has_table else None
    nn.Module.to(unet, dtype)  # diffusers' method only adds a warning
    if table is not None:
        unet.time_proj, unet.time_embedding = Integers(table), AsIs()
    replace_norms(unet, group_norm, half=dtype != torch.float32)
    return denoiser.around(unet if dtype == torch.float32 else InPrecision(unet, dtype))


def autoencoder_for_export(
    autoencoder: Autoencoder, *, group_norm: GroupNormForm, precision: FloatPrecision
) -> Autoencoder:
    """A copy of an autoencoder whose decoder computes in `precision`, float32 in and out; see `for_export`."""
    dtype = DTYPES[precision]
    made = copy.deepcopy(autoencoder)
    nn.Module.to(made.inner, dtype)
    replace_norms(made.inner, group_norm, half=dtype != torch.float32)
    made.dtype = dtype
    return made


class InPrecision(nn.Module):
    """A UNet of another type that takes and returns float32."""

    def __init__(self, unet: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.unet, self.dtype = unet, dtype

    def forward(
        self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor, return_dict: bool = False
    ) -> tuple[torch.Tensor]:
        return (self.unet(x.to(self.dtype), t, y, return_dict=return_dict)[0].float(),)


def replace_norms(module: nn.Module, form: GroupNormForm, *, half: bool) -> None:
    """Rewrite every GroupNorm and LayerNorm in place; in float32 a LayerNorm or native GroupNorm stays."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.GroupNorm) and form == "instance":
                setattr(parent, name, InstanceGroupNorm(child.float()))
            elif isinstance(child, nn.GroupNorm | nn.LayerNorm) and half:
                setattr(parent, name, FloatNorm(child.float()))
