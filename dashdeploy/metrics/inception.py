"""The Inception network of FID (TensorFlow's graph of 2015-12-05), with the parameter names of its published weights.

It is Inception v3 (Szegedy et al. 2015, arXiv:1512.00567) with three differences: 1008 outputs, average pools that do
not count their padding, and a max pool in the last block. Images are resized as by TensorFlow 1: without half-pixel
centres.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

SIZE = 299
FEATURES = 2048
Kernel = int | tuple[int, int]
Layer = tuple[str, int, Kernel]
Chain = tuple[tuple[Layer, ...], ...]
"""Convolutions one after another: (name, channels out, kernel). Several at one place take the same input."""


class Conv(nn.Module):
    """Convolution, batch normalisation, ReLU."""

    def __init__(self, inside: int, outside: int, kernel: Kernel, *, stride: int = 1, padded: bool = True) -> None:
        super().__init__()
        sides = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (sides[0] // 2, sides[1] // 2) if padded and stride == 1 else (0, 0)
        self.conv = nn.Conv2d(inside, outside, sides, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outside, eps=0.001)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


class Mixed(nn.Module):
    """Several chains and a pool on one input; their outputs are joined along the channels.

    Args:
        pool: "avg" or "max": stride 1, then a 1×1 convolution to `pooled` channels. "down": a max pool of stride 2; the
            last layer of every chain then has stride 2 too.
    """

    def __init__(self, inside: int, chains: tuple[Chain, ...], *, pool: str, pooled: int = 0) -> None:
        super().__init__()
        self.chains, self.pool = chains, pool
        self.outside = inside if pool == "down" else pooled
        for chain in chains:
            width = inside
            for i, layers in enumerate(chain):
                stride = 2 if pool == "down" and i == len(chain) - 1 else 1
                for name, outside, kernel in layers:
                    self.add_module(name, Conv(width, outside, kernel, stride=stride))
                width = sum(outside for _, outside, _ in layers)
            self.outside += width
        if pool != "down":
            self.branch_pool = Conv(inside, pooled, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = []
        for chain in self.chains:
            part = x
            for layers in chain:
                part = torch.cat([getattr(self, name)(part) for name, _, _ in layers], 1)
            parts.append(part)
        if self.pool == "down":
            return torch.cat([*parts, F.max_pool2d(x, 3, 2)], 1)
        pooled = F.max_pool2d(x, 3, 1, 1) if self.pool == "max" else F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        return torch.cat([*parts, self.branch_pool(pooled)], 1)


def _row(*layers: Layer) -> Chain:
    return tuple((layer,) for layer in layers)


def _double3x3() -> Chain:
    return _row(("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3))


def _a(inside: int, pooled: int) -> Mixed:
    five = _row(("branch5x5_1", 48, 1), ("branch5x5_2", 64, 5))
    return Mixed(inside, (_row(("branch1x1", 64, 1)), five, _double3x3()), pool="avg", pooled=pooled)


def _b() -> Mixed:
    return Mixed(288, (_row(("branch3x3", 384, 3)), _double3x3()), pool="down")


def _c(inner: int) -> Mixed:
    seven = _row(("branch7x7_1", inner, 1), ("branch7x7_2", inner, (1, 7)), ("branch7x7_3", 192, (7, 1)))
    double = _row(("branch7x7dbl_1", inner, 1), ("branch7x7dbl_2", inner, (7, 1)), ("branch7x7dbl_3", inner, (1, 7)))
    double += _row(("branch7x7dbl_4", inner, (7, 1)), ("branch7x7dbl_5", 192, (1, 7)))
    return Mixed(768, (_row(("branch1x1", 192, 1)), seven, double), pool="avg", pooled=192)


def _d() -> Mixed:
    three = _row(("branch3x3_1", 192, 1), ("branch3x3_2", 320, 3))
    seven = _row(("branch7x7x3_1", 192, 1), ("branch7x7x3_2", 192, (1, 7)), ("branch7x7x3_3", 192, (7, 1)))
    return Mixed(768, (three, seven + _row(("branch7x7x3_4", 192, 3))), pool="down")


def _e(inside: int, pool: str) -> Mixed:
    three: Chain = (*_row(("branch3x3_1", 384, 1)), _fork("branch3x3_2"))
    double: Chain = (*_row(("branch3x3dbl_1", 448, 1), ("branch3x3dbl_2", 384, 3)), _fork("branch3x3dbl_3"))
    return Mixed(inside, (_row(("branch1x1", 320, 1)), three, double), pool=pool, pooled=192)


def _fork(name: str) -> tuple[Layer, ...]:
    return (f"{name}a", 384, (1, 3)), (f"{name}b", 384, (3, 1))


class Inception(nn.Module):
    """Pool-2048 features of images. Use it in eval mode, with its weights loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Conv(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = Conv(32, 32, 3, padded=False)
        self.Conv2d_2b_3x3 = Conv(32, 64, 3)
        self.Conv2d_3b_1x1 = Conv(64, 80, 1)
        self.Conv2d_4a_3x3 = Conv(80, 192, 3, padded=False)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = _a(192, 32), _a(256, 64), _a(288, 64)
        self.Mixed_6a = _b()
        self.Mixed_6b, self.Mixed_6c, self.Mixed_6d, self.Mixed_6e = _c(128), _c(160), _c(160), _c(192)
        self.Mixed_7a, self.Mixed_7b, self.Mixed_7c = _d(), _e(1280, "avg"), _e(FEATURES, "max")
        self.fc = nn.Linear(FEATURES, 1008)  # part of the published weights, not of the features

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) uint8 -> (N, 2048) float32."""
        x = (resize(images.float(), SIZE) - 128) / 128
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, 2)))
        x = F.max_pool2d(x, 3, 2)
        for name, block in self.named_children():
            if name.startswith("Mixed"):
                x = block(x)
        return x.mean((2, 3))


def resize(images: torch.Tensor, size: int) -> torch.Tensor:
    """TensorFlow 1's bilinear resize: output pixel i lies at input i·H/size. (N, C, H, W) -> (N, C, size, size)."""
    rows, cols = (_neighbours(side, size, images.device) for side in images.shape[2:])
    low, high, share = cols
    x = torch.lerp(images[..., low], images[..., high], share)
    low, high, share = rows
    return torch.lerp(x[:, :, low], x[:, :, high], share[:, None])


def _neighbours(side: int, size: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    at = torch.arange(size, dtype=torch.float32, device=device) * torch.tensor(side / size, dtype=torch.float32)
    low = at.long()
    return low, (low + 1).clamp(max=side - 1), at - low
