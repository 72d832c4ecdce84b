"""Train the small feature network of a built-in dataset: python benchmarks/train_features.py digits

Writes dashdeploy/metrics/networks/<name>.safetensors and prints the line for SPECS and the
accuracy on held-out images. The committed networks were made by this script.
"""

from __future__ import annotations

import sys

from safetensors.torch import save_file

from dashdeploy.data import load_dataset
from dashdeploy.metrics import fit
from dashdeploy.metrics.features import NETWORKS
from dashdeploy.recipe.schema import Data
from dashdeploy.stages import file_sha256

TRAININGS = {
    "digits": (Data(name="digits"), fit.Training(epochs=40, batch_size=64)),
    "fashion_mnist": (Data(name="fashion_mnist"), fit.Training(epochs=3, batch_size=128)),
    "fashion_mnist_16": (Data(name="fashion_mnist", image_size=16), fit.Training(epochs=8, batch_size=128)),
}
HOLDOUT = 0.1


def main(name: str) -> None:
    config, how = TRAININGS[name]
    data = load_dataset(config)
    train, test = data.split(HOLDOUT)
    channels, size, _ = data.image_shape
    net = fit.train(train, how, image_size=size)
    path = NETWORKS / f"{name}.safetensors"
    save_file(net.state_dict(), path)
    print(f"held-out accuracy {fit.accuracy(net, test, image_size=size):.4f} on {len(test)}")
    print(
        f'"{name}": NetworkSpec("{path.name}", "{file_sha256(path)}", image_size={size}, channels={channels}, '
        f"classes={data.classes}, width={how.width}),"
    )


if __name__ == "__main__":
    main(sys.argv[1])
