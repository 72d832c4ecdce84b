"""Fashion-MNIST: 60 000 grey images of 28×28, 10 classes of clothing, from idx files on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dashdeploy.data.idx import read_idx
from dashdeploy.data.images import LabelledImages, is_file
from dashdeploy.errors import UserError
from dashdeploy.locate import expanded
from dashdeploy.recipe.schema import Data

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
IMAGES_FILE = "train-images-idx3-ubyte"
LABELS_FILE = "train-labels-idx1-ubyte"
CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


def load(config: Data) -> LabelledImages:
    """Fashion-MNIST's training images (https://github.com/zalandoresearch/fashion-mnist).

    Reads `train-images-idx3-ubyte.gz` and `train-labels-idx1-ubyte.gz`, or the same without `.gz`, from `config.path`
    or from the folder of Debian's package dataset-fashion-mnist. horizontal_flip is on: a mirrored garment keeps its
    class.

    Returns:
        images (N, 1, 28, 28) uint8, background 0; labels (N,) int64 in 0..9. N is 60 000 for the published files.

    Raises:
        UserError: a file is missing, damaged or of other dimensions, or the two do not match.
    """
    folder = expanded(config.path) if config.path is not None else DEBIAN_FOLDER
    images_path, labels_path = _find(folder, IMAGES_FILE), _find(folder, LABELS_FILE)
    labels = read_idx(labels_path, item_shape=())
    if labels.max() >= len(CLASSES):
        row = int(np.argmax(labels >= len(CLASSES)))
        raise UserError(f"{labels_path}: label {labels[row]} of image {row} is not in 0..{len(CLASSES) - 1}")
    images = read_idx(images_path, item_shape=(28, 28))
    if len(images) != len(labels):
        raise UserError(f"{images_path} holds {len(images)} images, but {labels_path} holds {len(labels)} labels")
    return LabelledImages(
        name="fashion_mnist",
        images=images[:, None],
        labels=labels.astype(np.int64),
        classes=CLASSES,
        horizontal_flip=True,
    )


def _find(folder: Path, name: str) -> Path:
    """`name`.gz in the folder if it is there, else `name`."""
    for candidate in (folder / f"{name}.gz", folder / name):
        if is_file(candidate):
            return candidate
    raise UserError(
        f"dataset fashion_mnist: neither {name}.gz nor {name} is in {folder}. On Debian or Ubuntu: "
        "apt-get install dataset-fashion-mnist; or set data.path to the folder that holds the idx files"
    )
