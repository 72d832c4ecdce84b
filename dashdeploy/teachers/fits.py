"""Whether a foreign configuration is a network, whether a file has its weights, and whether it gives eps: no memory.

The network is built and run on torch's meta device, where tensors have shapes and no values. So a configuration that
diffusers cannot build, or that asks for more than the file holds, is told before anything is allocated.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from dashdeploy.errors import UserError

MOST = 1 << 24
"""Of any number in a configuration: classes, positions, the sides of images."""
MOST_LAYERS = {"layers_per_block": 100, "num_layers": 1000}
MOST_ITEMS = 64
"""Of a list: levels, say."""


def refuse_misfits(
    network_class: Any,
    config: dict[str, Any],
    state: Mapping[str, torch.Tensor],
    *,
    image_shape: tuple[int, int, int],
    source: str,
) -> None:
    """Check a configuration against the weights of a file, and its output against its input.

    Args:
        config: of `network_class`, as config.json has it.
        state: tensors by name.
        image_shape: (C, H, W) of one input.
        source: what messages call the model.

    Raises:
        UserError: a number out of all proportion, a network that cannot be built or run, tensors that are missing, too
            many or of another shape, or an output that is not (C or 2C, H, W).
    """
    if problem := next(_out_of_proportion(config), None):
        raise UserError(f"{source}: config.json: {problem}. Take the config.json that came with the weights.")
    doing = "built"
    try:
        with torch.device("meta"):
            network = network_class.from_config(config).eval()
            _refuse_other_tensors(network.state_dict(), state, source)
            doing = "run on one image"
            x, t = torch.empty(1, *image_shape), torch.zeros(1, dtype=torch.int64)
            with torch.no_grad():
                output = network(x, t, t, return_dict=False)[0]
    except UserError:
        raise
    except Exception as error:
        detail = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(
            f"{source}: a network of this config.json cannot be {doing} ({detail}). Take the config.json that came "
            "with the weights."
        ) from error
    channels = image_shape[0]
    if tuple(output.shape[2:]) != image_shape[1:] or output.shape[1] not in (channels, 2 * channels):
        raise UserError(
            f"{source}: of images {image_shape} (C, H, W) it makes {tuple(output.shape[1:])}; expected as many pixels "
            f"and {channels} channels, or {2 * channels} where the variance is learned"
        )


def _out_of_proportion(value: Any, key: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _out_of_proportion(inner, str(name))
    elif isinstance(value, list | tuple):
        if len(value) > MOST_ITEMS:
            yield f"{key} has {len(value)} values; at most {MOST_ITEMS}"
        for inner in value:
            yield from _out_of_proportion(inner, key)
    elif isinstance(value, int | float):
        most = MOST_LAYERS.get(key, MOST)
        if not math.isfinite(value) or abs(value) > most:
            yield f"{key} is {value}; at most {most:,}"


def _refuse_other_tensors(wanted: Mapping[str, Any], given: Mapping[str, torch.Tensor], source: str) -> None:
    missing, unknown = sorted(wanted.keys() - given.keys()), sorted(given.keys() - wanted.keys())
    other = [name for name in wanted if name in given and wanted[name].shape != given[name].shape]
    said = [
        f"{what} {_some(names)}"
        for what, names in (("the file lacks", missing), ("the network has no", unknown))
        if names
    ]
    said += [
        f"{n} is {tuple(given[n].shape)} in the file and {tuple(wanted[n].shape)} in config.json" for n in other[:2]
    ]
    if said:
        raise UserError(f"{source}: weights and config.json do not fit together: {'; '.join(said)}")


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
