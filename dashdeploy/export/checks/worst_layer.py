"""The layer of a half-precision network that harms the guidance most: each is run by itself on float32's input."""

from __future__ import annotations

import math

import torch
from torch import nn

from dashdeploy.diffusion import guidance
from dashdeploy.diffusion.denoiser import TorchDenoiser
from dashdeploy.export.graph.rewrite import InPrecision
from dashdeploy.metrics.gap import Probes, relative_error

LAYERS = (nn.Conv2d, nn.Linear)


@torch.no_grad()
def find(reference: TorchDenoiser, rewritten: TorchDenoiser, probes: Probes, *, num: int = 32) -> tuple[str, float]:
    """(layer, relative error of its gap): the difference that its output makes between the two branches.

    Of one branch: between the ends of its range of guidance scales. Infinite where its output overflows. `rewritten` is
    `rewrite.for_export` of the reference in another precision.
    """
    half: InPrecision = rewritten.unet
    others = {name: layer for name, layer in half.unet.named_modules() if isinstance(layer, LAYERS)}
    errors: dict[str, float] = {}

    def compare(name: str, inputs: torch.Tensor, output: torch.Tensor) -> None:
        other = others[name](inputs.to(half.dtype)).float()
        # The gap of the layer's output; it is negated, which changes no relative error.
        gaps = [torch.sub(*guidance.split(stacked, len(stacked) // 2)) for stacked in (other, output)]
        error = relative_error(*gaps) if torch.isfinite(other).all() else math.inf
        errors[name] = max(errors.get(name, 0.0), error)

    hooks = [
        layer.register_forward_hook(lambda module, inputs, output, name=name: compare(name, inputs[0], output))
        for name, layer in reference.unet.named_modules()
        if name in others
    ]
    try:
        part = slice(0, len(probes.t), max(1, len(probes.t) // num))
        x, t, y = probes.x_t[part], probes.t[part], probes.y[part]
        if reference.interface.guidance_range is None:
            reference.branches(x, t, y)
        else:
            w = torch.tensor(reference.interface.guidance_range).repeat_interleave(len(y))
            reference.guided(x.repeat(2, 1, 1, 1), t.repeat(2), y.repeat(2), w)
    finally:
        for hook in hooks:
            hook.remove()
    return max(errors.items(), key=lambda item: item[1])
