"""Train the small feature network of a built-in dataset: python benchmarks/train_features.py digits

Writes dashdeploy/metrics/networks/<name>.safetensors and prints the line for SPECS and the
accuracy on held-out images. The committed networks were made by this script.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import torch
from safetensors.torch import save_file
from torch import nn

from dashdeploy.data import load_dataset
from dashdeploy.metrics.features import NETWORKS, FeatureNet, normalise
from dashdeploy.recipe.schema import Data
from dashdeploy.stages import file_sha256


@dataclass(frozen=True)
class Training:
    """What a network is trained on and how long."""

    data: Data
    epochs: int
    batch: int
    width: int = 16


TRAININGS = {
    "digits": Training(Data(name="digits"), epochs=40, batch=64),
    "fashion_mnist": Training(Data(name="fashion_mnist"), epochs=3, batch=128),
    "fashion_mnist_16": Training(Data(name="fashion_mnist", image_size=16), epochs=8, batch=128),
}
HOLDOUT = 0.1


def main(name: str) -> None:
    torch.manual_seed(0)
    training = TRAININGS[name]
    data = load_dataset(training.data)
    train, test = data.split(HOLDOUT)
    channels, size, _ = data.image_shape
    net = FeatureNet(channels=channels, num_classes=data.num_classes, width=training.width)
    x, y = normalise(torch.from_numpy(train.images), size), torch.from_numpy(train.labels)
    batch, epochs = training.batch, training.epochs
    steps = epochs * (len(x) // batch)
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    for epoch in range(epochs):
        order = torch.randperm(len(x))
        for i in range(len(x) // batch):
            rows = order[i * batch : (i + 1) * batch]
            loss = nn.functional.cross_entropy(net(x[rows])[1], y[rows], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1}/{epochs} loss {loss.item():.4f}", file=sys.stderr)
    net.eval()
    with torch.no_grad():
        test_x = normalise(torch.from_numpy(test.images), size)
        right = torch.cat([net(part)[1].argmax(1) for part in test_x.split(512)]).numpy() == test.labels
    path = NETWORKS / f"{name}.safetensors"
    save_file(net.state_dict(), path)
    print(f"held-out accuracy {right.mean():.4f} on {len(test)}")
    print(
        f'"{name}": NetworkSpec("{path.name}", "{file_sha256(path)}", image_size={size}, channels={channels}, '
        f"classes={data.classes}, width={training.width}),"
    )


if __name__ == "__main__":
    main(sys.argv[1])
