"""samples.npz: a grid of images of every model, from the same noise and labels."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dashdeploy.bench.record.record import Record
from dashdeploy.errors import UserError

FILE = "samples.npz"


@dataclass(frozen=True)
class Grids:
    """The images that the report shows.

    Attributes:
        images: by model, (n, C, H, W) uint8, of the same noise and labels for every model.
        labels: (n,) int64, class by class.
        columns: images in a row; a row is of one class.
    """

    images: dict[str, NDArray[np.uint8]]
    labels: NDArray[np.int64]
    columns: int


def write_grids(path: Path, grids: Grids) -> None:
    """Write what `read_grids` reads."""
    np.savez_compressed(path, allow_pickle=False, labels=grids.labels, columns=np.array(grids.columns), **grids.images)


def read_grids(path: Path, record: Record) -> Grids:
    """The grids that belong to a record.

    Raises:
        UserError: the file is missing, damaged, or does not fit the record.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            images = {name: file[name] for name in file.files}
        columns, labels = int(images.pop("columns")), images.pop("labels")
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: cannot read the sample images ({error!r}). Run `dashdeploy bench` again.") from error
    shapes = {array.shape for array in images.values()}
    fits = (
        images.keys() <= record.models.keys()
        and all(v.dtype == np.uint8 and v.ndim == 4 and v.shape[1] in (1, 3) for v in images.values())
        and len(shapes) == 1
        and labels.shape == (next(iter(shapes))[0],)
        and labels.size > 0
        and 0 <= labels.min() <= labels.max() < len(record.classes)
        and columns >= 1
    )
    if not fits:
        raise UserError(
            f"{path}: sample images that do not fit the record in that folder. Run `dashdeploy bench` again."
        )
    return Grids({key: images[key] for key in record.models if key in images}, labels.astype(np.int64), columns)
