"""A network of the layout that teachers/published.py reads, written from that file's docstring, not from their code."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F


def residual(c_in: int, c_out: int, c_time: int) -> nn.ModuleDict:
    layers = {
        "norm1": nn.GroupNorm(32, c_in, eps=1e-6),
        "conv1": nn.Conv2d(c_in, c_out, 3, padding=1),
        "temb_proj": nn.Linear(c_time, c_out),
        "norm2": nn.GroupNorm(32, c_out, eps=1e-6),
        "conv2": nn.Conv2d(c_out, c_out, 3, padding=1),
    }
    if c_in != c_out:
        layers["nin_shortcut"] = nn.Conv2d(c_in, c_out, 1)
    return nn.ModuleDict(layers)


def attention(c: int) -> nn.ModuleDict:
    return nn.ModuleDict(
        {"norm": nn.GroupNorm(32, c, eps=1e-6), **{name: nn.Conv2d(c, c, 1) for name in ("q", "k", "v", "proj_out")}}
    )


def run_residual(m: nn.ModuleDict, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
    hidden = m["conv1"](F.silu(m["norm1"](x))) + m["temb_proj"](F.silu(time)).unflatten(1, (-1, 1, 1))
    hidden = m["conv2"](F.silu(m["norm2"](hidden)))
    return hidden + (m["nin_shortcut"](x) if "nin_shortcut" in m else x)


def run_attention(m: nn.ModuleDict, x: torch.Tensor) -> torch.Tensor:
    q, k, v = (m[name](m["norm"](x)).flatten(2) for name in ("q", "k", "v"))
    weights = torch.softmax(torch.einsum("bci,bcj->bij", q, k) / math.sqrt(x.shape[1]), dim=-1)
    return x + m["proj_out"](torch.einsum("bij,bcj->bci", weights, v).unflatten(2, x.shape[2:]))


class PaperUNet(nn.Module):
    """Random weights throughout, norms included, so that no two tensors can be taken for each other."""

    def __init__(
        self, *, channels: tuple[int, ...], blocks: int, attention_levels: tuple[int, ...], classes: int
    ) -> None:
        super().__init__()
        base, last, c_time = channels[0], len(channels) - 1, 4 * channels[0]
        self.base = base
        self.temb = nn.ModuleDict({"dense": nn.ModuleList([nn.Linear(base, c_time), nn.Linear(c_time, c_time)])})
        self.class_embed = nn.Embedding(classes + 1, c_time)
        self.conv_in = nn.Conv2d(3, base, 3, padding=1)
        now, skips = base, [base]
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for level, c in enumerate(channels):
            inside = [residual(now if j == 0 else c, c, c_time) for j in range(blocks)]
            part = self._level(inside, c, level in attention_levels)
            now = c
            skips += [c] * blocks
            if level < last:
                part["downsample"] = nn.ModuleDict({"conv": nn.Conv2d(c, c, 3, stride=2)})
                skips.append(c)
            self.down.append(part)
        self.mid = nn.ModuleDict(
            {"block_1": residual(now, now, c_time), "attn_1": attention(now), "block_2": residual(now, now, c_time)}
        )
        up = []
        for level, c in reversed(list(enumerate(channels))):
            inside = []
            for _ in range(blocks + 1):
                inside.append(residual(now + skips.pop(), c, c_time))
                now = c
            part = self._level(inside, c, level in attention_levels)
            if level > 0:
                part["upsample"] = nn.ModuleDict({"conv": nn.Conv2d(c, c, 3, padding=1)})
            up.append(part)
        self.up.extend(reversed(up))
        self.norm_out = nn.GroupNorm(32, base, eps=1e-6)
        self.conv_out = nn.Conv2d(base, 3, 3, padding=1)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))

    @staticmethod
    def _level(inside: list[nn.ModuleDict], c: int, attends: bool) -> nn.ModuleDict:
        attn = [attention(c) for _ in inside] if attends else []
        return nn.ModuleDict({"block": nn.ModuleList(inside), "attn": nn.ModuleList(attn)})

    def forward(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        half = self.base // 2
        angles = t[:, None] * torch.exp(-math.log(10000) * torch.arange(half) / (half - 1))
        first, second = self.temb["dense"]
        time = second(F.silu(first(torch.cat([angles.sin(), angles.cos()], 1)))) + self.class_embed(y)
        hidden = self.conv_in(x)
        skips = [hidden]
        for part in self.down:
            for j, block in enumerate(part["block"]):
                hidden = run_residual(block, hidden, time)
                hidden = run_attention(part["attn"][j], hidden) if len(part["attn"]) else hidden
                skips.append(hidden)
            if "downsample" in part:
                hidden = part["downsample"]["conv"](F.pad(hidden, (0, 1, 0, 1)))
                skips.append(hidden)
        hidden = run_residual(self.mid["block_1"], hidden, time)
        hidden = run_residual(self.mid["block_2"], run_attention(self.mid["attn_1"], hidden), time)
        for part in reversed(self.up):
            for j, block in enumerate(part["block"]):
                hidden = run_residual(block, torch.cat([hidden, skips.pop()], 1), time)
                hidden = run_attention(part["attn"][j], hidden) if len(part["attn"]) else hidden
            if "upsample" in part:
                hidden = part["upsample"]["conv"](F.interpolate(hidden, scale_factor=2))
        return self.conv_out(F.silu(self.norm_out(hidden)))


def checkpoint(network: PaperUNet, *, lam: torch.Tensor | None) -> dict:
    """What is in one of their files; the averaged weights are `network`'s, those of the last step are others."""
    found = {
        "epoch": 3,
        "model_state_dict": {name: tensor + 0.25 for name, tensor in network.state_dict().items()},
        "optimizer_state_dict": {"state": {}, "param_groups": [{"lr": 2e-4}]},
        "ema_state_dict": {"shadow": network.state_dict(), "mu": 0.9999, "registered": True},
        "train_losses": [0.1, 0.05],
    }
    if lam is not None:
        found["tirt_state_dict"] = {"importance_adjustment": lam, "snr_gamma": torch.tensor(5.0)}
    return found
