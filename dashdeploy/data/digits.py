"""scikit-learn's digits: 1797 grey images of 8×8, 10 classes, no download."""

from __future__ import annotations

import numpy as np

from dashdeploy.data.images import LabelledImages
from dashdeploy.errors import UserError
from dashdeploy.recipe.schema import Data


def load(config: Data) -> LabelledImages:
    """The UCI hand-written digits as scikit-learn ships them; grey levels 0..16 are scaled to 0..255.

    Raises:
        UserError: a path is given, which would have no effect.
    """
    if config.path is not None:
        raise UserError(
            f"data.path {config.path}: the digits come with scikit-learn and are not read from a path. Leave it out, "
            "or take another dataset, such as image_folder."
        )
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
