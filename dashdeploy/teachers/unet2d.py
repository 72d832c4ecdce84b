"""Class-conditional `UNet2DModel`s in diffusers format: build, load, save, check."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DModel

from dashdeploy.diffusion import prediction as predictions
from dashdeploy.diffusion import schedule as schedules
from dashdeploy.diffusion.denoiser import Interface, TorchDenoiser
from dashdeploy.diffusion.prediction import Prediction
from dashdeploy.diffusion.schedule import NoiseSchedule
from dashdeploy.errors import UserError
from dashdeploy.recipe.schema import Architecture
from dashdeploy.weights_file import read_safetensors

WEIGHTS = "diffusion_pytorch_model.safetensors"


def unet_config(architecture: Architecture, *, image_shape: tuple[int, int, int], num_classes: int) -> dict[str, Any]:
    """`UNet2DModel` arguments of a recipe's architecture; label K is the null class."""
    levels = range(len(architecture.block_out_channels))
    down = ["AttnDownBlock2D" if i in architecture.attention_levels else "DownBlock2D" for i in levels]
    up = ["AttnUpBlock2D" if i in architecture.attention_levels else "UpBlock2D" for i in reversed(levels)]
    channels, size, _ = image_shape
    return {
        "sample_size": size,
        "in_channels": channels,
        "out_channels": channels,
        "block_out_channels": list(architecture.block_out_channels),
        "layers_per_block": architecture.layers_per_block,
        "down_block_types": down,
        "up_block_types": up,
        "attention_head_dim": architecture.attention_head_dim,
        "norm_num_groups": architecture.norm_num_groups,
        "dropout": architecture.dropout,
        "num_class_embeds": num_classes + 1,
    }


def build(architecture: Architecture, *, image_shape: tuple[int, int, int], num_classes: int, seed: int) -> Any:
    """A freshly initialised UNet; the weights depend on the seed alone."""
    check_levels(architecture, image_shape)
    config = unet_config(architecture, image_shape=image_shape, num_classes=num_classes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return UNet2DModel(**config)


def check_levels(architecture: Architecture, image_shape: tuple[int, int, int]) -> None:
    """Refuse an image that cannot be halved once between each pair of levels."""
    halvings = len(architecture.block_out_channels) - 1
    if image_shape[1] % (1 << halvings):
        raise UserError(
            f"images of {image_shape[1]} pixels cannot be halved {halvings} times: "
            f"use fewer block_out_channels or set data.image_size to a multiple of {1 << halvings}"
        )


def count_parameters(config: dict[str, Any]) -> int:
    """Parameters of `UNet2DModel(**config)`, without allocating them."""
    with torch.device("meta"):
        unet: Any = UNet2DModel(**config)
    return sum(p.numel() for p in unet.parameters())


def save(unet: Any, schedule: NoiseSchedule, folder: Path, *, dtype: torch.dtype = torch.float32) -> None:
    """Write `unet/` and `scheduler/` in diffusers format: `UNet2DModel.from_pretrained(folder, subfolder="unet")`."""
    stored: Any = UNet2DModel.from_config(unet.config)
    stored.load_state_dict(unet.state_dict())
    for parameter in stored.parameters():
        parameter.data = parameter.data.to(dtype)
    stored.save_pretrained(folder / "unet", safe_serialization=True)
    (folder / "scheduler").mkdir(parents=True, exist_ok=True)
    text = json.dumps(schedule.scheduler_config(), indent=2) + "\n"
    (folder / "scheduler" / "scheduler_config.json").write_text(text)


def load(folder: Path, *, role: str = "teacher") -> TorchDenoiser:
    """Open a class-conditional `UNet2DModel` with its scheduler, in eval mode and float32.

    `folder` holds `unet/` and `scheduler/` (a pipeline) or `config.json` beside `scheduler_config.json`.
    The last class embedding (index K) is taken as the null class. What the network predicts (eps, v, x_0) is what the
    scheduler's prediction_type says; out comes eps.

    Raises:
        UserError: anything missing, damaged or not class-conditional; the message says what to do.
    """
    unet_folder = _unet_folder(folder)
    config = read_config(folder, role=role)
    embeds = config.get("num_class_embeds")
    if not embeds or embeds < 2:
        raise UserError(
            f"{role} {unet_folder}: num_class_embeds is {embeds}; a class-conditional model with K classes and a null "
            "class has K + 1. A model without the null class was not trained for classifier-free guidance."
        )
    weights = unet_folder / WEIGHTS
    if not weights.is_file():
        raise UserError(f"{role} {weights}: no such file. Expected weights in safetensors format, named so.")
    state = read_safetensors(weights)
    try:
        unet = UNet2DModel.from_config(config)
        unet.load_state_dict({k: v.float() for k, v in state.items()})
    except (RuntimeError, TypeError, ValueError, KeyError) as error:
        detail = " ".join(str(error).split())[:300]
        raise UserError(f"{role} {unet_folder}: weights and config.json do not fit together: {detail}") from error
    size = config.get("sample_size")
    height, width = (size, size) if isinstance(size, int) else tuple(size or (0, 0))
    if not height or not width:
        raise UserError(f"{role} {unet_folder / 'config.json'}: sample_size is missing; set it to the image size")
    schedule, prediction = load_schedule(folder, role)
    interface = Interface(
        num_classes=embeds - 1, image_shape=(config.get("in_channels", 3), height, width), schedule=schedule
    )
    return TorchDenoiser(unet.eval().requires_grad_(False), interface, prediction=prediction)


def read_config(folder: Path, *, role: str) -> dict[str, Any]:
    """The model's config.json.

    Raises:
        UserError: missing, or not JSON.
    """
    return _read_json(_unet_folder(folder) / "config.json", role)


def _unet_folder(folder: Path) -> Path:
    return folder / "unet" if (folder / "unet").is_dir() else folder


def load_schedule(folder: Path, role: str) -> tuple[NoiseSchedule, Prediction]:
    """The noise schedule beside a model, and what the model predicts."""
    nested = folder / "scheduler" / "scheduler_config.json"
    path = nested if nested.is_file() else folder / "scheduler_config.json"
    config = _read_json(path, role)
    prediction = predictions.from_scheduler_config(config, source=str(path))
    schedule = schedules.from_scheduler_config(config, source=str(path))
    if config.get("rescale_betas_zero_snr"):
        warnings.warn(
            f"{role} {path}: rescale_betas_zero_snr: the last alphas_cumprod is taken as {schedules.ZERO_SNR:.1g} "
            "instead of 0, where eps would say nothing of the image",
            stacklevel=2,
        )
    return schedule, prediction


def _read_json(path: Path, role: str) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{role} {path}: no such file. Expected a folder in diffusers format.")
    try:
        value = json.loads(path.read_text())
    except (ValueError, OSError) as error:
        raise UserError(f"{role} {path}: not valid JSON ({error})") from error
    if not isinstance(value, dict):
        raise UserError(f"{role} {path}: expected a JSON object")
    return value
