"""Our Inception FID against torch-fidelity's on the same weights and images: python benchmarks/inception_fid.py

The published weights cannot be redistributed here, so both networks take one file of random weights of the same
layout, from a seed. torch-fidelity's own `calculate_metrics` gives its FID, its own extractor its features. Writes
benchmarks/results/inception-fid.json.

torch-fidelity asks for torchvision, whose wheels do not import beside a torch for CPUs; its Inception and FID do not
use it, so an empty stand-in is put in its place for the import. `pip install --no-deps --target FOLDER torch-fidelity`
installs it without what it requires, and PYTHONPATH=FOLDER finds it.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch.utils.data import Dataset

from dashdeploy import stages
from dashdeploy.bench.measure.machine import machine
from dashdeploy.metrics import frechet
from dashdeploy.metrics.features import InceptionFeatures
from dashdeploy.metrics.inception import Inception

SEED = 0
PARTS = ("datasets", "models", "transforms", "transforms.functional")


class Images(Dataset):
    """(N, 3, H, W) uint8 as torch-fidelity takes data."""

    def __init__(self, images: torch.Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> torch.Tensor:
        return self.images[row]


def torch_fidelity() -> ModuleType:
    """The package, with a stand-in for torchvision where that does not import.

    Raises:
        ImportError: it is not installed.
    """
    try:
        importlib.import_module("torchvision")
    except (ImportError, RuntimeError):
        for name in ("torchvision", *(f"torchvision.{part}" for part in PARTS)):
            sys.modules[name] = module = ModuleType(name)
            parent, _, child = name.rpartition(".")
            if parent:
                setattr(sys.modules[parent], child, module)
        for data in ("CIFAR10", "CIFAR100", "STL10"):
            setattr(sys.modules["torchvision.datasets"], data, object)
    return importlib.import_module("torch_fidelity")


def random_weights(path: Path) -> Path:
    """A state dict in the published layout whose features are of order one; from SEED."""
    generator = torch.Generator().manual_seed(SEED)
    state = Inception().state_dict()
    for name, value in state.items():
        if value.dim() == 4:
            value.copy_(torch.randn(value.shape, generator=generator) * math.sqrt(2 / value[0].numel()))
        elif name.endswith(("bn.weight", "running_var")):
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
        elif value.is_floating_point():
            value.copy_(torch.randn(value.shape, generator=generator) * 0.1)
    torch.save(state, path)
    return path


def two_sets(num_images: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Handwritten digits, and others in negative: (N, 3, 8, 8) uint8 twice."""
    pixels = torch.from_numpy(load_digits().images[: 2 * num_images] * (255 / 16)).to(torch.uint8)
    rgb = pixels[:, None].expand(-1, 3, -1, -1).contiguous()
    return rgb[:num_images], 255 - rgb[num_images:]


def compare(num_images: int, work: Path) -> dict[str, Any]:
    """Features and FID by both, and how far they are apart."""
    theirs = torch_fidelity()
    weights = random_weights(work / "weights.pth")
    ours = InceptionFeatures(weights, sha256=stages.file_sha256(weights))
    a, b = two_sets(num_images)
    features = [ours(images)[0] for images in (a, b)]
    net = theirs.FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=str(weights))
    some = min(num_images, 8)
    wanted = net(a[:some])[0].numpy()
    their_fid = theirs.calculate_metrics(
        input1=Images(a),
        input2=Images(b),
        fid=True,
        cuda=False,
        cache=False,
        verbose=False,
        save_cpu_ram=True,
        feature_extractor_weights_path=str(weights),
    )["frechet_inception_distance"]
    our_fid = frechet.frechet_distance(*map(frechet.statistics, features))
    return {
        "num_images": num_images,
        "seed": SEED,
        "weights_sha256": stages.file_sha256(weights),
        "fid": our_fid,
        "torch_fidelity_fid": their_fid,
        "fid_difference": abs(our_fid - their_fid),
        "feature_mean": float(abs(wanted).mean()),
        "feature_max_difference": float(abs(features[0][:some] - wanted).max()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=128, help="in each of the two sets")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        result = compare(options.images, Path(work))
    versions = {**stages.versions(), "torch-fidelity": metadata.version("torch-fidelity")}
    result |= {"machine": machine(), "versions": versions}
    path = Path(__file__).parent / "results" / "inception-fid.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({k: v for k, v in result.items() if k not in ("machine", "versions")}, indent=1))


if __name__ == "__main__":
    main()
