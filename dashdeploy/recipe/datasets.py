"""The datasets that a recipe may name, each with its loader in `dashdeploy/data/`. Another dataset is one more line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

DATASETS: dict[str, str] = {
    "digits": "digits:load",
    "fashion_mnist": "fashion_mnist:load",
    "cifar10": "cifar:load_cifar10",
    "cifar100": "cifar:load_cifar100",
    "image_folder": "image_folder:load",
    "latents": "latents:load",
}
"""Name -> "module:function" in the package dashdeploy.data, ``load(config: Data) -> LabelledImages``."""

if TYPE_CHECKING:
    DatasetName = str
else:
    DatasetName = Literal[tuple(DATASETS)]
