"""diffusers' class-conditional networks: create, count, save, read from a folder. The adapters share this."""

from __future__ import annotations

import functools
import json
import os
import warnings
from pathlib import Path
from typing import Any

import torch
from diffusers import DiTTransformer2DModel, UNet2DModel
from diffusers.models.embeddings import LabelEmbedding

from dashdeploy.diffusion import prediction as predictions
from dashdeploy.diffusion import schedule as schedules
from dashdeploy.diffusion.denoiser import Interface
from dashdeploy.diffusion.prediction import Prediction
from dashdeploy.diffusion.schedule import NoiseSchedule
from dashdeploy.errors import UserError, reading, writing
from dashdeploy.peak_memory import machine_bytes
from dashdeploy.teachers import config as configs
from dashdeploy.teachers import guidance_embedding, paths, weights
from dashdeploy.teachers.weights import ONE_BRANCH_WEIGHTS as ONE_BRANCH_WEIGHTS
from dashdeploy.teachers.weights import WEIGHTS as WEIGHTS
from dashdeploy.weights_file import require_finite

UNET, DIT = "UNet2DModel", "DiTTransformer2DModel"
CLASSES: dict[str, Any] = {UNET: UNet2DModel, DIT: DiTTransformer2DModel}
DEPTHS = {UNET: "layers_per_block", DIT: "num_layers"}
TRAINING_BYTES = 20
"""Of each parameter in float32: the weight, its gradient, AdamW's two moments, the average."""
FOLDERS = {UNET: "unet", DIT: "transformer"}
"""The network's folder in a pipeline, as diffusers names it."""
AVERAGED = "_ema"
"""Added to it, the folder of the averaged weights."""
GRIDS, CONSISTENCY = "timestep_grids", "consistency"
"""Of config.json: the timesteps that a few-step student was trained for; whether for the solver `consistency`."""
OWN_KEYS = (guidance_embedding.KEY, GRIDS, CONSISTENCY)
"""What config.json says of a student that diffusers does not know."""


def create(config: dict[str, Any], *, network: str = UNET) -> Any:
    """A freshly initialised network in train mode, without label dropout.

    Raises:
        UserError: this machine's memory cannot hold it.
    """
    refuse_parameters(count_parameters(config, network=network), what="a network of")
    return without_label_dropout(build(config, network=network))


def build(config: dict[str, Any], *, network: str = UNET) -> Any:
    """The network of a configuration, with an embedding of the guidance scale if it has one branch."""
    return with_own_keys(CLASSES[network](**arguments(config)), config)


def with_own_keys(plain: Any, config: dict[str, Any]) -> Any:
    """A plain network with what OWN_KEYS of a configuration add to it; it is changed in place."""
    if (guidance_range := config.get(guidance_embedding.KEY)) is not None:
        guidance_embedding.add(plain, guidance_range)
    plain.register_to_config(**{key: config[key] for key in OWN_KEYS if config.get(key) is not None})
    return plain


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
    """What of a configuration diffusers' class takes: without its bookkeeping, such as _class_name, and OWN_KEYS."""
    return {k: v for k, v in config.items() if not k.startswith("_") and k not in OWN_KEYS}


def count_parameters(config: dict[str, Any], *, network: str = UNET) -> int:
    """Parameters of a network of this configuration, without allocating them."""
    depth = DEPTHS[network]
    # Each further layer has as many parameters as the one before. Making all of a deep network takes seconds, for each
    # candidate.
    one, two = (_count(json.dumps({**config, depth: n}), network) for n in (1, 2))
    return one + (two - one) * (int(config[depth]) - 1)


def refuse_huge(config: dict[str, Any], *, network: str = UNET, what: str) -> None:
    """Refuse a network that this machine's memory cannot train, before anything of it is made.

    Args:
        what: what messages call it.

    Raises:
        UserError: AdamW, the average and the gradients of the 3×3 convolutions alone would take more.
    """
    if network != UNET:
        return
    layers, widths = config["layers_per_block"], config["block_out_channels"]
    refuse_parameters(sum((2 * layers + 1) * 9 * width**2 for width in widths), what=f"{what} more than")


def refuse_parameters(count: int, *, what: str) -> None:
    """Refuse so many parameters where weights, gradients, AdamW's state and the average exceed this machine's memory.

    Raises:
        UserError: they do.
    """
    needed, there = count * TRAINING_BYTES, machine_bytes()
    if needed > there:
        raise UserError(
            f"{what} {count:,} parameters: training it takes {needed / 2**30:,.0f} GiB, and this machine has "
            f"{there / 2**30:,.0f}. Give it fewer channels or layers."
        )


def try_forward(config: dict[str, Any], *, network: str = UNET, what: str) -> None:
    """Run a network of this configuration on shapes alone, without memory for its values.

    Raises:
        UserError: it cannot be made, or does not take images of its size.
    """
    size = config["sample_size"]
    height, width = (size, size) if isinstance(size, int) else size
    try:
        with torch.device("meta"), torch.no_grad():
            plain = arguments(config)
            module = CLASSES[network](**{**plain, DEPTHS[network]: min(2, plain[DEPTHS[network]])}).eval()
            labels = torch.zeros(2, dtype=torch.long)
            x = torch.zeros(2, config["in_channels"], height, width)
            module(x, timestep=labels, class_labels=labels)
    except (RuntimeError, ValueError, TypeError, IndexError, ArithmeticError) as error:
        detail = " ".join(str(error).split())[:200]
        raise UserError(f"{what} cannot take images of {height}×{width} pixels: {detail}") from error


@functools.cache
def _count(config: str, network: str) -> int:
    with torch.device("meta"):
        module = build(json.loads(config), network=network)
    return sum(p.numel() for p in module.parameters())


def save(
    network: Any,
    schedule: NoiseSchedule,
    folder: Path,
    *,
    prediction: Prediction = "epsilon",
    clip_sample: bool = True,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write a network in diffusers format, in `unet/` or `transformer/`, and its `scheduler/`.

    `UNet2DModel.from_pretrained(folder, subfolder="unet")` opens it, unless it has one branch: see ONE_BRANCH_WEIGHTS.

    Args:
        prediction: what it predicts.
        clip_sample: what the scheduler does to the predicted x_0; false for latents.
        dtype: how the weights are stored.

    Raises:
        UserError: a weight is NaN or Inf, or does not fit into `dtype`; nothing is written.
    """
    name = type(network).__name__
    stored = build(dict(network.config), network=name)
    stored.load_state_dict(network.state_dict())
    for parameter in stored.parameters():
        parameter.data = parameter.data.to(dtype)
    require_finite(
        stored.state_dict(),
        source=f"the {name} to be written",
        advice=f"Its training diverged, or its weights do not fit into {str(dtype).removeprefix('torch.')}.",
    )
    with writing(folder / FOLDERS[name]):
        stored.save_pretrained(folder / FOLDERS[name], safe_serialization=True)
        if stored.config.get(guidance_embedding.KEY) is not None:
            (folder / FOLDERS[name] / WEIGHTS).rename(folder / FOLDERS[name] / ONE_BRANCH_WEIGHTS)
    (folder / "scheduler").mkdir(parents=True, exist_ok=True)
    text = json.dumps(schedule.scheduler_config(clip_sample=clip_sample, prediction=prediction), indent=2) + "\n"
    (folder / "scheduler" / "scheduler_config.json").write_text(text)


def folder_of(folder: Path) -> Path:
    """Where the network's files are: a subfolder of a pipeline, or `folder` itself.

    Where diffusers' training scripts have left the average of the weights beside them (`unet_ema`), it is the average.
    """
    averaged = [folder / f"{name}{AVERAGED}" for name in FOLDERS.values()]
    if found := next((path for path in averaged if (path / "config.json").is_file()), None):
        return found
    inside = [folder / name for name in FOLDERS.values() if (folder / name).is_dir()]
    if len(inside) > 1:
        raise UserError(
            f"{folder}: holds both {'/ and '.join(FOLDERS.values())}/. Which is the model? Remove the other."
        )
    return inside[0] if inside else folder


def read_config(folder: Path, *, role: str) -> dict[str, Any]:
    """The model's config.json.

    Raises:
        UserError: missing, not JSON, or with a key or value that its class does not take (see teachers/config.py).
    """
    path = folder_of(folder) / "config.json"
    return configs.network(_read_json(path, role), source=f"{role} {path}")


def weights_files(folder: Path) -> list[Path]:
    """The files that hold the network's weights, or would."""
    return weights.files(folder_of(folder))


def read_weights(folder: Path, *, role: str) -> dict[str, torch.Tensor]:
    """The network's weights in float32; see `weights.read`."""
    return weights.read(folder_of(folder), role=role)


def check_out_channels(out: int, channels: int, *, source: str) -> None:
    """Refuse a network whose output is neither of its input's channels, nor of these and a learned variance.

    Raises:
        UserError: it is.
    """
    if out not in (channels, 2 * channels):
        raise UserError(
            f"{source}: out_channels is {out}; expected {channels} as in_channels, or {2 * channels} where the "
            "variance is learned"
        )


def restore(config: dict[str, Any], state: dict[str, torch.Tensor], *, folder: Path, role: str) -> Any:
    """The network of a configuration with its weights, in eval mode and without gradients.

    Raises:
        UserError: the two do not fit together, or diffusers cannot build such a network.
    """
    where = f"{role} {folder_of(folder)}"
    # Nothing is allocated for a network that the weights are not of.
    shapes = on_meta(config, source=where)
    if told := _differences(shapes.state_dict(), state):
        raise UserError(f"{where}: weights and config.json do not fit together: {told}")
    try_forward(arguments(shapes.config), network=type(shapes).__name__, what=where)
    network = build(config, network=config.get("_class_name", UNET))
    network.load_state_dict(state)
    return without_label_dropout(network).eval().requires_grad_(False)


def on_meta(config: dict[str, Any], *, source: str) -> Any:
    """The network of a configuration with shapes and no memory.

    Raises:
        UserError: diffusers makes none of it.
    """
    try:
        with torch.device("meta"):
            return build(config, network=config.get("_class_name", UNET))
    except Exception as error:  # diffusers raises of any kind
        detail = " ".join(str(error).split())[:300] or type(error).__name__
        raise UserError(f"{source}: diffusers makes no network of its config.json: {detail}") from error


def _differences(wanted: dict[str, torch.Tensor], state: dict[str, torch.Tensor]) -> str:
    """How weights differ from those that a network has, by names and shapes; "": they do not."""
    missing = [name for name in wanted if name not in state]
    extra = [name for name in state if name not in wanted]
    other = [name for name in wanted if name in state and wanted[name].shape != state[name].shape]
    parts = [
        f"{len(names)} {what}, such as {names[0]}"
        for what, names in (("tensors are missing", missing), ("are not its own", extra))
        if names
    ]
    if other:
        shapes = f"{tuple(state[other[0]].shape)} and not {tuple(wanted[other[0]].shape)}"
        parts.append(f"{len(other)} have other shapes, such as {other[0]}: {shapes}")
    return "; ".join(parts)


def interface(config: dict[str, Any], folder: Path, *, num_classes: int, image_shape: Any, role: str) -> Interface:
    """What a caller must know of the network of this configuration in `folder`, with the schedule beside it."""
    schedule, prediction = load_schedule(folder, role)
    guidance_range = config.get(guidance_embedding.KEY)
    return Interface(
        num_classes=num_classes,
        image_shape=tuple(image_shape),
        schedule=schedule,
        prediction=prediction,
        branches=2 if guidance_range is None else 1,
        guidance_range=None if guidance_range is None else tuple(guidance_range),
        grids=tuple(tuple(grid) for grid in config.get(GRIDS) or ()),
        consistency=bool(config.get(CONSISTENCY)),
    )


def path_of(folder: Path, role: str) -> paths.GaussianPath | None:
    """The path of the scheduler beside a model, where it is another than DDPM's."""
    where = _scheduler_path(folder)
    return paths.from_scheduler_config(_read_json(where, role), source=f"{role} {where}")


def _scheduler_path(folder: Path) -> Path:
    nested = folder / "scheduler" / "scheduler_config.json"
    return nested if nested.is_file() else folder / "scheduler_config.json"


def load_schedule(folder: Path, role: str) -> tuple[NoiseSchedule, Prediction]:
    """The noise schedule beside a model, and what the model predicts. Settings that are not followed are warned of."""
    path = _scheduler_path(folder)
    config = _read_json(path, role)
    if (other := paths.from_scheduler_config(config, source=f"{role} {path}")) is not None:
        return NoiseSchedule(other.betas, source=f"{role} {path}"), paths.PREDICTION
    configs.scheduler(config, source=f"{role} {path}")
    prediction = predictions.from_scheduler_config(config, source=str(path))
    schedule = schedules.from_scheduler_config(config, source=str(path))
    for ignored in schedules.ignored_settings(config):
        warnings.warn(f"{role} {path}: {ignored}", stacklevel=2)
    return schedule, prediction


def _read_json(path: Path, role: str) -> dict[str, Any]:
    if not path.is_file():
        lost = next((p for p in (path, *(path.parent / name for name in FOLDERS.values())) if p.is_symlink()), None)
        if lost is not None and not lost.exists():
            raise UserError(f"{role} {lost}: a link to {os.readlink(lost)}, which is not there. Bring it back.")
        raise UserError(f"{role} {path}: no such file. Expected a folder in diffusers format.")
    with reading(path, f"configuration of a {role} in JSON"):
        value = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        raise UserError(f"{role} {path}: expected a JSON object")
    return value
