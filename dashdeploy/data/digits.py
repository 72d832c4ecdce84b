"""scikit-learn's digits: 1797 grey images of 8×8, 10 classes, no download."""

from __future__ import annotations

import numpy as np

from dashdeploy.data.images import LabelledImages
from dashdeploy.recipe.schema import Data


def load(config: Data) -> LabelledImages:
    """The UCI hand-written digits as scikit-learn ships them; grey levels 0..16 are scaled to 0..255."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[:, None]
    return LabelledImages(
        name="digits",
        images=images,
        labels=bunch.target.astype(np.int64),
        classes=tuple(str(d) for d in range(10)),
        horizontal_flip=False,
    )
