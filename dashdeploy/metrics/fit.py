"""A feature network for a dataset that has none: the small classifier, trained on the training images themselves."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from dashdeploy import stages
from dashdeploy.data.images import LabelledImages
from dashdeploy.files import write_whole
from dashdeploy.locate import cache_folder
from dashdeploy.metrics.features import FITTED_WIDTH, ClassifierFeatures, FeatureNet, NetworkSpec, normalise
from dashdeploy.progress import progress
from dashdeploy.terminal import say, warn

LARGEST = 64
"""Side in pixels that larger images are scaled down to."""
STEPS = 1200
HOLDOUT = 0.1
"""Share of the images that the accuracy is measured on where the recipe holds none out."""


@dataclass(frozen=True)
class Training:
    """How a network is trained; `width` is its channels."""

    epochs: int
    batch_size: int
    width: int = FITTED_WIDTH
    seed: int = 0


def fitted(data: LabelledImages, *, holdout: float) -> ClassifierFeatures:
    """The classifier of these images: trained on the training images once, then read from the cache folder.

    It lies in <cache>/features/, named by the hash of images, split, architecture and training. A damaged file is
    trained again.

    Args:
        holdout: share of the images that is held out from training, as in the recipe; of 0, HOLDOUT.
    """
    train_data, held_out = data.split(holdout or HOLDOUT)
    batch_size = min(64, len(train_data))
    how = Training(epochs=-(-STEPS // (len(train_data) // batch_size)), batch_size=batch_size)
    size = min(data.image_shape[1], LARGEST)
    shape: dict[str, Any] = {
        **{"image_size": size, "channels": data.image_shape[0]},
        **{"classes": data.classes, "width": how.width},
    }
    key = stages.digest(
        {"data": data.sha256, "holdout": holdout or HOLDOUT, **shape, "training": dataclasses.asdict(how)}
    )
    path = cache_folder() / "features" / f"{key}.safetensors"
    found = _read(path)
    if found is None:
        say(f"fitting a feature network to {len(train_data)} images of {data.name}")
        net = train(train_data, how, image_size=size)
        share = accuracy(net, held_out, image_size=size)
        state = {name: tensor.contiguous() for name, tensor in net.state_dict().items()}
        kept = {"accuracy": repr(share), "tensors": _hash(state)}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, save(state, {"dashdeploy": json.dumps(kept)}))
        say(f"it takes {share:.1%} of {len(held_out)} held-out images for their class: {path}")
        found = state, share
    state, share = found
    spec = NetworkSpec(path.name, stages.file_sha256(path), **shape)
    return ClassifierFeatures(f"{data.name}-fitted", spec, state, held_out_accuracy=share)


def train(data: LabelledImages, how: Training, *, image_size: int) -> FeatureNet:
    """A network trained to classify the images, in eval mode; a function of the arguments."""
    per_epoch = len(data.images) // how.batch_size
    with (
        torch.random.fork_rng(devices=[]),
        progress("feature network", total=how.epochs * per_epoch) as advance,
    ):
        torch.manual_seed(how.seed)
        net = FeatureNet(channels=data.image_shape[0], num_classes=data.num_classes, width=how.width)
        x, y = torch.from_numpy(data.images), torch.from_numpy(data.labels)
        optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=0.05)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=how.epochs * per_epoch)
        for _ in range(how.epochs):
            order = torch.randperm(len(x))
            for rows in order[: per_epoch * how.batch_size].split(how.batch_size):
                logits = net(normalise(x[rows], image_size))[1]
                loss = nn.functional.cross_entropy(logits, y[rows], label_smoothing=0.1)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                advance(1)
    return net.eval().requires_grad_(False)


@torch.no_grad()
def accuracy(net: FeatureNet, data: LabelledImages, *, image_size: int) -> float:
    """Share of the images that it takes for their class."""
    parts = torch.from_numpy(data.images).split(512)
    predicted: NDArray[np.int64] = torch.cat([net(normalise(p, image_size))[1].argmax(1) for p in parts]).numpy()
    return float((predicted == data.labels).mean())


def _read(path: Path) -> tuple[dict[str, torch.Tensor], float] | None:
    """(tensors, accuracy) of a cached network; None: there is none, or it is damaged."""
    try:
        with safe_open(path, "pt") as file:
            kept = json.loads((file.metadata() or {})["dashdeploy"])
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        if kept["tensors"] == _hash(state):
            return state, float(kept["accuracy"])
    except (FileNotFoundError, IsADirectoryError):
        return None
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):
        pass
    warn(f"{path}: damaged; it is made again")
    return None


def _hash(state: dict[str, torch.Tensor]) -> str:
    return stages.digest({name: [list(t.shape), t.numpy().tobytes().hex()] for name, t in sorted(state.items())})
