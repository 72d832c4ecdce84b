"""diffusers' class-conditional networks: create, count, save, read from a folder. The adapters share this."""

from __future__ import annotations

import functools
import json
import warnings
from pathlib import Path
from typing import Any

import torch
from diffusers import DiTTransformer2DModel, UNet2DModel
from diffusers.models.embeddings import LabelEmbedding

from dashdeploy.diffusion import prediction as predictions
from dashdeploy.diffusion import schedule as schedules
from dashdeploy.diffusion.prediction import Prediction
from dashdeploy.diffusion.schedule import NoiseSchedule
from dashdeploy.errors import UserError, reading, writing
from dashdeploy.weights_file import read_safetensors

WEIGHTS = "diffusion_pytorch_model.safetensors"
UNET, DIT = "UNet2DModel", "DiTTransformer2DModel"
CLASSES: dict[str, Any] = {UNET: UNet2DModel, DIT: DiTTransformer2DModel}
FOLDERS = {UNET: "unet", DIT: "transformer"}
"""The network's folder in a pipeline, as diffusers names it."""


def create(config: dict[str, Any], *, network: str = UNET) -> Any:
    """A freshly initialised network in train mode, without label dropout."""
    return without_label_dropout(CLASSES[network](**config))


def without_label_dropout(network: Any) -> Any:
    """The same network with diffusers' label dropout off, which a DiT has in train mode.

    Distillation drops no labels. The objectives that drop labels (`scratch`) do it themselves, by the recipe's seed.
    """
    for module in network.modules():
        if isinstance(module, LabelEmbedding):
            module.dropout_prob = 0.0
    return network


def config_of(network: Any) -> dict[str, Any]:
    """A network's configuration with its class name, as in config.json."""
    return {**network.config, "_class_name": type(network).__name__}


def arguments(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration without diffusers' bookkeeping, such as _class_name."""
    return {k: v for k, v in config.items() if not k.startswith("_")}


def count_parameters(config: dict[str, Any], *, network: str = UNET) -> int:
    """Parameters of a network of this configuration, without allocating them."""
    if network == UNET:
        return _count(json.dumps(config), network)
    # All blocks of a DiT have the same number. Making all 28 of a large one takes seconds, for each candidate.
    one, two = (_count(json.dumps({**config, "num_layers": n}), network) for n in (1, 2))
    return one + (two - one) * (int(config["num_layers"]) - 1)


@functools.cache
def _count(config: str, network: str) -> int:
    with torch.device("meta"):
        module = CLASSES[network](**json.loads(config))
    return sum(p.numel() for p in module.parameters())


def save(network: Any, schedule: NoiseSchedule, folder: Path, *, dtype: torch.dtype = torch.float32) -> None:
    """Write an eps-predicting network in diffusers format, in `unet/` or `transformer/`, and its `scheduler/`.

    `UNet2DModel.from_pretrained(folder, subfolder="unet")` opens it.
    """
    name = type(network).__name__
    stored = CLASSES[name].from_config(network.config)
    stored.load_state_dict(network.state_dict())
    for parameter in stored.parameters():
        parameter.data = parameter.data.to(dtype)
    with writing(folder / FOLDERS[name]):
        stored.save_pretrained(folder / FOLDERS[name], safe_serialization=True)
    (folder / "scheduler").mkdir(parents=True, exist_ok=True)
    text = json.dumps(schedule.scheduler_config(), indent=2) + "\n"
    (folder / "scheduler" / "scheduler_config.json").write_text(text)


def folder_of(folder: Path) -> Path:
    """Where the network's files are: a subfolder of a pipeline, or `folder` itself."""
    inside = [folder / name for name in FOLDERS.values() if (folder / name).is_dir()]
    return inside[0] if inside else folder


def read_config(folder: Path, *, role: str) -> dict[str, Any]:
    """The model's config.json.

    Raises:
        UserError: missing, or not JSON.
    """
    return _read_json(folder_of(folder) / "config.json", role)


def read_weights(folder: Path, *, role: str) -> dict[str, torch.Tensor]:
    """The network's weights in float32.

    Raises:
        UserError: no file of the expected name, or a damaged one.
    """
    path = folder_of(folder) / WEIGHTS
    if not path.is_file():
        raise UserError(
            f"{role} {path}: no such file. Expected the weights in one safetensors file of this name. Make it from "
            "others (.bin, shards) by diffusers' from_pretrained(…).save_pretrained(…, max_shard_size='100GB')."
        )
    return {name: tensor.float() for name, tensor in read_safetensors(path).items()}


def restore(config: dict[str, Any], state: dict[str, torch.Tensor], *, folder: Path, role: str) -> Any:
    """The network of a configuration with its weights, in eval mode and without gradients.

    Raises:
        UserError: the two do not fit together.
    """
    try:
        network = CLASSES[config.get("_class_name", UNET)].from_config(config)
        network.load_state_dict(state)
    except (RuntimeError, TypeError, ValueError, KeyError) as error:
        detail = " ".join(str(error).split())[:300]
        raise UserError(f"{role} {folder_of(folder)}: weights and config.json do not fit together: {detail}") from error
    return without_label_dropout(network).eval().requires_grad_(False)


def load_schedule(folder: Path, role: str) -> tuple[NoiseSchedule, Prediction]:
    """The noise schedule beside a model, and what the model predicts."""
    nested = folder / "scheduler" / "scheduler_config.json"
    path = nested if nested.is_file() else folder / "scheduler_config.json"
    config = _read_json(path, role)
    prediction = predictions.from_scheduler_config(config, source=str(path))
    schedule = schedules.from_scheduler_config(config, source=str(path))
    if config.get("rescale_betas_zero_snr"):
        warnings.warn(
            f"{role} {path}: rescale_betas_zero_snr: the last alphas_cumprod is set to {schedules.ZERO_SNR:.1g}, not "
            "0, because at 0 eps does not determine the image",
            stacklevel=2,
        )
    return schedule, prediction


def _read_json(path: Path, role: str) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{role} {path}: no such file. Expected a folder in diffusers format.")
    with reading(path, f"configuration of a {role} in JSON"):
        value = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        raise UserError(f"{role} {path}: expected a JSON object")
    return value
