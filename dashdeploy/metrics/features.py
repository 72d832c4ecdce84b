"""Feature networks for FID and KID: a small classifier, committed or fitted to the user's images, or Inception.

Figures of different networks cannot be compared, so the network's name and hash stand wherever a figure is shown.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from dashdeploy.data import fashion_mnist
from dashdeploy.data.images import LabelledImages
from dashdeploy.diffusion.pixels import from_uint8
from dashdeploy.errors import UserError
from dashdeploy.locate import expanded
from dashdeploy.metrics.inception import Inception
from dashdeploy.stages import file_sha256
from dashdeploy.weights_file import read_safetensors

NETWORKS = Path(__file__).parent / "networks"
DIGITS = tuple(map(str, range(10)))
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"

CHOICES = (
    "Set bench.quality.features to none (latency and guidance fidelity, without FID), to fit (a small classifier is "
    "trained on your images), or to inception, with features_weights."
)


class Extractor(Protocol):
    """Maps images to features, and to probabilities of classes if it is a classifier.

    Attributes:
        classes: names of the classes that it predicts, in label order; empty: it predicts none.
        held_out_accuracy: of a classifier that was fitted to the recipe's data; None: of any other.
    """

    name: str
    sha256: str
    classes: tuple[str, ...]
    held_out_accuracy: float | None

    def __call__(self, images: torch.Tensor) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """(N, C, H, W) uint8 -> features (N, D) and probabilities (N, K) or None, both float32."""
        ...


@dataclass(frozen=True)
class NetworkSpec:
    """A feature network: file, input and width. The hash of a committed file is checked before it is opened."""

    file: str
    sha256: str
    image_size: int
    channels: int
    classes: tuple[str, ...]
    width: int


SPECS: dict[str, NetworkSpec] = {
    "digits": NetworkSpec(
        "digits.safetensors",
        "0cee79a055a54b76d35ef8e59a05d3b92fcecceef00fc186e87b539ba1cb1c54",
        image_size=8,
        channels=1,
        classes=DIGITS,
        width=16,
    ),
    "fashion_mnist": NetworkSpec(
        "fashion_mnist.safetensors",
        "43916e87468f0e510008bacee06ec4624bd7b8469202015becbafe7c3e10cce7",
        image_size=28,
        channels=1,
        classes=fashion_mnist.CLASSES,
        width=16,
    ),
    "fashion_mnist_16": NetworkSpec(
        "fashion_mnist_16.safetensors",
        "950868c975c8c60694a29852de4e68fc287cbd21f89652c469aca8c39c66cdf6",
        image_size=16,
        channels=1,
        classes=fashion_mnist.CLASSES,
        width=16,
    ),
}


FITTED_WIDTH = 16
"""Width of a network that is trained on a recipe's images."""


class FeatureNet(nn.Module):
    """A small convolutional classifier; the features are its last hidden layer after the ReLU (D = 4·width)."""

    def __init__(self, *, channels: int, num_classes: int, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_conv(channels, width),
            *_conv(width, width),
            nn.MaxPool2d(2),
            *_conv(width, 2 * width),
            *_conv(2 * width, 2 * width),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
            nn.Linear(2 * width * 16, 4 * width),
            nn.ReLU(),
        )
        self.head = nn.Linear(4 * width, num_classes)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """x (N, C, H, W) float32 in [−1, 1] -> features (N, D), logits (N, K)."""
        features = self.body(x)
        return features, self.head(features)


def _conv(inside: int, outside: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inside, outside, 3, padding=1, bias=False), nn.BatchNorm2d(outside), nn.ReLU()


class ClassifierFeatures:
    """A FeatureNet as an Extractor; images are resized (bilinear) to the size that it was trained on."""

    def __init__(
        self, name: str, spec: NetworkSpec, state: dict[str, torch.Tensor], *, held_out_accuracy: float | None = None
    ) -> None:
        self.name, self.sha256, self.spec, self.classes = name, spec.sha256, spec, spec.classes
        self.held_out_accuracy = held_out_accuracy
        self.net = FeatureNet(channels=spec.channels, num_classes=len(spec.classes), width=spec.width)
        self.net.load_state_dict(state)
        self.net.eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, images: torch.Tensor) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        features, probabilities = [], []
        for part in images.split(512):
            hidden, logits = self.net(normalise(part, self.spec.image_size))
            features.append(hidden.numpy())
            probabilities.append(logits.softmax(1).numpy())
        return np.concatenate(features), np.concatenate(probabilities)


def committed(name: str, folder: Path | None = None) -> ClassifierFeatures:
    """A network of SPECS, from `folder`; None: NETWORKS.

    Raises:
        UserError: its file is missing or has another hash.
    """
    spec = SPECS[name]
    path = (folder or NETWORKS) / spec.file
    if not path.is_file() or file_sha256(path) != spec.sha256:
        raise UserError(f"{path}: missing, or not the feature network that this version was released with")
    return ClassifierFeatures(f"{name}-classifier", spec, read_safetensors(path))


def normalise(images: torch.Tensor, image_size: int) -> torch.Tensor:
    """(N, C, H, W) uint8 -> (N, C, image_size, image_size) float32 in [−1, 1]."""
    x = from_uint8(images)
    if x.shape[-1] != image_size:
        x = nn.functional.interpolate(x, size=(image_size, image_size), mode="bilinear", antialias=True)
    return x


class InceptionFeatures:
    """The 2015-12-05 Inception of FID: TensorFlow 1's resize to 299, pool-2048 features.

    Args:
        weights: the published file, as a state dict.
        sha256: what the file's hash must be.

    Raises:
        UserError: see `check_inception`.
    """

    name = "inception-v3-2015-12-05-pool2048"
    classes: tuple[str, ...] = ()
    held_out_accuracy: float | None = None

    def __init__(self, weights: Path, *, sha256: str = INCEPTION_SHA256) -> None:
        self.sha256 = check_inception(weights, sha256=sha256)
        self.net = Inception()
        self.net.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        self.net.eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, images: torch.Tensor) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        net = self.net.to(device)
        features = []
        for part in images.split(64):
            rgb = part.expand(-1, 3, -1, -1) if part.shape[1] == 1 else part
            features.append(net(rgb.to(device)).cpu().numpy())
        return np.concatenate(features), None


def check_inception(weights: Path, *, sha256: str = INCEPTION_SHA256) -> str:
    """The hash of Inception's weights file.

    Raises:
        UserError: no such file, or one with another hash.
    """
    if not weights.is_file():
        raise UserError(
            f"{weights}: no such file. Expected weights-inception-2015-12-05-6726825d.pth of torch-fidelity."
        )
    found = file_sha256(weights)
    if found != sha256:
        raise UserError(f"{weights}: its SHA-256 is {found[:16]}…, expected {sha256[:16]}… (the FID Inception)")
    return found


def dimension(name: str) -> int | None:
    """Number of features of a network; None: none is known of this name."""
    widths = {"fit": FITTED_WIDTH, **{known: spec.width for known, spec in SPECS.items()}}
    return 2048 if name == "inception" else 4 * widths[name] if name in widths else None


def refuse(features: str, data: LabelledImages, *, weights: str | None) -> None:
    """What `open_extractor` cannot give, told without opening or training a network.

    Raises:
        UserError: no network of that name, or none for this dataset or its channels; a missing or wrong weights file;
            nothing to tell apart for `fit`.
    """
    name = data.name if features == "auto" else features
    if name == "inception":
        if weights is None:
            raise UserError("features: inception needs its weights: --weights FILE, or bench.quality.features_weights")
        check_inception(expanded(weights))
    elif name == "fit":
        if data.num_classes < 2:
            raise UserError(
                "features: fit trains a classifier, and the data have one class. Take none, or inception with weights."
            )
    elif name != "none" and name not in SPECS:
        raise UserError(f"no committed feature network for {name!r} (there are: {', '.join(sorted(SPECS))}). {CHOICES}")
    elif name != "none" and SPECS[name].channels != data.image_shape[0]:
        raise UserError(
            f"the feature network {name} is of images with {SPECS[name].channels} channels, and those of {data.name} "
            f"have {data.image_shape[0]}. {CHOICES}"
        )


def open_extractor(features: str, data: LabelledImages, *, weights: str | None, holdout: float) -> Extractor | None:
    """The extractor that a recipe names. None: it wants none, and so no distances.

    Args:
        features: ``auto`` (the dataset's network), a network's name, ``inception``, ``fit`` or ``none``.
        weights: of ``inception``: its file. None: not given.
        holdout: share of the images that ``fit`` does not train on.

    Raises:
        UserError: see `refuse`.
    """
    refuse(features, data, weights=weights)
    if features == "none":
        return None
    if features == "fit":
        from dashdeploy.metrics.fit import fitted  # it builds on this file

        return fitted(data, holdout=holdout)
    if features == "inception":
        assert weights is not None
        return InceptionFeatures(expanded(weights))
    return committed(data.name if features == "auto" else features)
