"""The checkpoints that the code of arXiv:2606.00798 writes (`ckpt_epoch_*.pth`), read as a `UNet2DModel`.

Their layout, as in github.com/C-loud-Nine/DASH_Dual-Branch-Score-Distillation at fb04fe5. (None of its weights were
available: the tests use a network of this layout with random weights.)

    model_state_dict   the network, named as below
    ema_state_dict     {shadow: the network's averaged parameters by the same names, mu, registered}
    tirt_state_dict    {importance_adjustment: λ (T,), snr_gamma: γ}; only in a teacher's checkpoint
    epoch, optimizer_state_dict, …: not read

It is the UNet of Ho et al. 2020 with the label's embedding added to the timestep's: sines before cosines over half − 1
frequencies, GroupNorm of 32 groups with ε = 1e-6, a downsampling convolution that pads right and below, one attention
head. `UNet2DModel` with the arguments of `unet_arguments` computes the same. `up.i` counts levels from the finest,
up_blocks from the coarsest. The shapes do not determine the image size, which the caller gives, and the noise schedule,
which is the paper's: cosine, β in [1e-4, 0.9999].
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from dashdeploy.errors import UserError
from dashdeploy.weights_file import read_pickled, require_finite

State = dict[str, torch.Tensor]
SCHEDULE = {"kind": "cosine", "beta_start": 1e-4, "beta_end": 0.9999}
GROUPS, EPS = 32, 1e-6
WHOLE = {
    "conv_in": "conv_in",
    "temb.dense.0": "time_embedding.linear_1",
    "temb.dense.1": "time_embedding.linear_2",
    "class_embed": "class_embedding",
    "norm_out": "conv_norm_out",
    "conv_out": "conv_out",
}
BLOCKS = {
    r"down\.(\d+)\.block\.(\d+)": "down_blocks.{level}.resnets.{block}",
    r"down\.(\d+)\.attn\.(\d+)": "down_blocks.{level}.attentions.{block}",
    r"down\.(\d+)\.downsample()": "down_blocks.{level}.downsamplers.0",
    r"mid\.()block_1()": "mid_block.resnets.0",
    r"mid\.()block_2()": "mid_block.resnets.1",
    r"mid\.()attn_1()": "mid_block.attentions.0",
    r"up\.(\d+)\.block\.(\d+)": "up_blocks.{mirrored}.resnets.{block}",
    r"up\.(\d+)\.attn\.(\d+)": "up_blocks.{mirrored}.attentions.{block}",
    r"up\.(\d+)\.upsample()": "up_blocks.{mirrored}.upsamplers.0",
}
LAYERS = {
    **{name: name for name in ("norm1", "conv1", "norm2", "conv2", "conv")},
    "temb_proj": "time_emb_proj",
    "nin_shortcut": "conv_shortcut",
    "norm": "group_norm",
    "q": "to_q",
    "k": "to_k",
    "v": "to_v",
    "proj_out": "to_out.0",
}


@dataclass(frozen=True)
class Published:
    """A checkpoint's network as `UNet2DModel` arguments and weights; λ (T,) float32 and γ, None without them."""

    config: dict[str, Any]
    state: State
    lam: torch.Tensor | None
    gamma: float | None


def read(path: Path, *, image_size: int, weights: Literal["ema", "model"] = "ema") -> Published:
    """Read a checkpoint; nothing in it is executed.

    Args:
        image_size: side of the images that it was trained on; the weights do not tell it.
        weights: the averaged ones, as in the paper's figures, or those of the last step.

    Raises:
        UserError: it cannot be read without running its code, or has another layout; the message names the missing or
            unknown parameters.
    """
    checkpoint = _load(path)
    raw = _weights(checkpoint, path, weights)
    config = unet_arguments(raw, path, image_size=image_size)
    tirt = checkpoint.get("tirt_state_dict")
    lam, gamma = None, None
    if tirt is not None:
        lam = tirt.get("importance_adjustment") if isinstance(tirt, dict) else None
        if not isinstance(lam, torch.Tensor) or lam.dim() != 1 or not torch.isfinite(lam).all() or len(lam) < 2:
            raise UserError(f"{path}: tirt_state_dict holds no λ: expected importance_adjustment, finite and (T,)")
        gamma = _number(tirt.get("snr_gamma", 5.0))
        if gamma is None or not 0 < gamma < float("inf"):
            raise UserError(f"{path}: tirt_state_dict holds no γ: expected snr_gamma, a number above 0")
    return Published(config, _renamed(raw, path, len(config["block_out_channels"])), lam, gamma)


def unet_arguments(state: State, path: Path, *, image_size: int) -> dict[str, Any]:
    """`UNet2DModel` arguments of a network of their layout, from names and shapes.

    Raises:
        UserError: names that are missing, or levels that do not agree.
    """
    levels = len({name.split(".")[1] for name in state if name.startswith("down.")})
    blocks = len({name.split(".")[3] for name in state if name.startswith("down.0.block.")})
    needed = ["conv_in.weight", "conv_out.weight", "class_embed.weight"]
    needed += [f"down.{i}.block.0.conv1.weight" for i in range(max(levels, 1))]
    needed += [f"down.{i}.downsample.conv.weight" for i in range(levels - 1)]
    if missing := [name for name in needed if name not in state or state[name].dim() < 2]:
        raise UserError(
            f"{path}: not of the paper's layout: it has no {', '.join(missing)}. Only a UNet with convolutions that "
            "resample can be read; convert another network to diffusers format yourself."
        )
    if image_size % (1 << (levels - 1)):
        raise UserError(
            f"{path}: the network halves its images {levels - 1} times, which {image_size} pixels do not allow: give "
            "--image-size"
        )
    attention = [any(name.startswith(f"down.{i}.attn.") for name in state) for i in range(levels)]
    return {
        "sample_size": image_size,
        "in_channels": state["conv_in.weight"].shape[1],
        "out_channels": state["conv_out.weight"].shape[0],
        "block_out_channels": [state[f"down.{i}.block.0.conv1.weight"].shape[0] for i in range(levels)],
        "layers_per_block": blocks,
        "down_block_types": ["AttnDownBlock2D" if a else "DownBlock2D" for a in attention],
        "up_block_types": ["AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attention)],
        "attention_head_dim": None,
        "norm_num_groups": GROUPS,
        "norm_eps": EPS,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "downsample_padding": 0,
        "num_class_embeds": state["class_embed.weight"].shape[0],
    }


def _load(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path}: no such file. Expected a checkpoint such as ckpt_epoch_0500.pth.")
    advice = "save its state dicts alone by torch.save"
    checkpoint = read_pickled(path, source=path, what="checkpoint of tensors", advice=advice)
    if not isinstance(checkpoint, dict):
        raise UserError(f"{path}: holds a {type(checkpoint).__name__}; expected a dict with model_state_dict")
    return checkpoint


def _number(value: Any) -> float | None:
    """A number, also in a tensor; None: it is not one."""
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return None


def _weights(checkpoint: dict[str, Any], path: Path, weights: str) -> State:
    """The parameters by their names, float32. An average that lacks a parameter is refused."""
    model = checkpoint.get("model_state_dict")
    if not isinstance(model, dict):
        keys = ", ".join(map(str, list(checkpoint)[:8]))
        raise UserError(f"{path}: has no model_state_dict (it has {keys}); is it a checkpoint of another program?")
    state = model
    if weights == "ema":
        average = checkpoint.get("ema_state_dict")
        shadow = average.get("shadow") if isinstance(average, dict) else None
        if not isinstance(shadow, dict) or shadow.keys() != model.keys():
            raise UserError(
                f"{path}: ema_state_dict does not hold an average of every parameter. --weights model takes those of "
                "the last step; the paper's figures are the average's."
            )
        state = shadow
    if odd := [name for name, tensor in state.items() if not _is_weight(name, tensor)]:
        raise UserError(f"{path}: {str(odd[0])[:60]!r} is no tensor of real numbers; is it a checkpoint of weights?")
    # DataParallel and torch.compile put these before every name.
    named = {re.sub(r"^(module\.|_orig_mod\.)+", "", name): tensor.float() for name, tensor in state.items()}
    require_finite(named, source=path, advice="Its training diverged, or the file is damaged. Take another checkpoint.")
    return named


def _is_weight(name: Any, tensor: Any) -> bool:
    named = isinstance(name, str) and isinstance(tensor, torch.Tensor)
    return named and tensor.is_floating_point() and tensor.dim() > 0


def _renamed(state: State, path: Path, levels: int) -> State:
    renamed, left = {}, []
    for name, tensor in state.items():
        other = _diffusers_name(name, levels)
        if other is None:
            left.append(name)
            continue
        is_attention = ".attentions." in other and tensor.dim() == 4
        renamed[other] = tensor[:, :, 0, 0].contiguous() if is_attention else tensor
    if left:
        raise UserError(f"{path}: not of the paper's layout: {len(left)} unknown names, such as {', '.join(left[:3])}")
    return renamed


def _diffusers_name(name: str, levels: int) -> str | None:
    stem, _, kind = name.rpartition(".")
    if stem in WHOLE:
        return f"{WHOLE[stem]}.{kind}"
    for pattern, target in BLOCKS.items():
        match = re.fullmatch(rf"{pattern}\.(\w+)", stem)
        if match and match[3] in LAYERS:
            level = int(match[1] or 0)
            where = target.format(level=level, block=match[2], mirrored=levels - 1 - level)
            return f"{where}.{LAYERS[match[3]]}.{kind}"
    return None
