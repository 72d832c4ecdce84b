"""Labelled images or latents in memory, their split, and batches that are a function of (seed, step)."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dashdeploy.errors import UserError, printable
from dashdeploy.recipe.schema import Data


def plain_name(name: str) -> str:
    """A class's name with what no report could show escaped: control characters, and bytes that are not UTF-8."""
    return printable(name).replace("\n", "\\n")


def is_file(path: Path) -> bool:
    """Whether there is such a file.

    Raises:
        UserError: it is a link that leads nowhere: another file in its place would be another dataset.
    """
    if path.is_symlink() and not path.exists():
        raise UserError(
            f"{path}: a link to {os.readlink(path)}, which is not there. Bring it back, or remove the link."
        )
    return path.is_file()


class Problems:
    """What is wrong with the files of a dataset: all are looked at, and told in one line with their number."""

    def __init__(self, num_files: int, noun: str) -> None:
        self.num_files, self.noun = num_files, noun
        self.found: list[str] = []

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Keep the UserError of a file for `report`."""
        try:
            yield
        except UserError as error:
            self.found.append(str(error))

    def report(self) -> None:
        """Raises:
        UserError: the first problem, and how many files have one.
        """
        if self.found:
            others = f" ({len(self.found)} of {self.num_files} {self.noun} cannot be used)"
            raise UserError(self.found[0] + (others if len(self.found) > 1 else ""))


@dataclass(frozen=True)
class LabelledImages:
    """A class-labelled image set.

    Attributes:
        name: the dataset's registered name.
        images: (N, C, H, W) uint8; latents are float16 or float32, scaled as the network takes them.
        labels: (N,) int64 in [0, K).
        classes: the K class names, in label order.
        horizontal_flip: whether a mirrored image keeps its class.
        are_latents: whether these are an autoencoder's latents.
        mirrored: of latents that may be mirrored, those of the mirrored images, in the same shape; None: the array
            itself is mirrored.
        identity: the hash of what latents were encoded from, which their own last bits, another on each machine, do
            not tell; None: the arrays themselves are hashed.
    """

    name: str
    images: NDArray[Any]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    horizontal_flip: bool
    are_latents: bool = False
    mirrored: NDArray[Any] | None = None
    identity: str | None = None

    def __post_init__(self) -> None:
        n = len(self.images)
        dtypes = ("float16", "float32") if self.are_latents else ("uint8",)
        if self.images.dtype not in dtypes or self.images.ndim != 4:
            raise ValueError(
                f"images must be (N, C, H, W) {' or '.join(dtypes)}, not {self.images.shape} {self.images.dtype}"
            )
        if self.mirrored is not None and self.mirrored.shape != self.images.shape:
            raise ValueError(f"mirrored is {self.mirrored.shape}, and the images are {self.images.shape}")
        if self.labels.shape != (n,):
            raise ValueError(f"labels must be ({n},), not {self.labels.shape}")
        if n == 0:
            raise UserError(f"dataset {self.name}: it holds no images")
        if twice := [name for name, count in Counter(self.classes).items() if count > 1]:
            raise UserError(f"dataset {self.name}: two of its {len(self.classes)} classes are named {twice[0]!r}")
        low, high = int(self.labels.min()), int(self.labels.max())
        if low < 0 or high >= len(self.classes):
            raise UserError(
                f"dataset {self.name}: label {low if low < 0 else high} is none of the {len(self.classes)} classes "
                f"0..{len(self.classes) - 1}"
            )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        _, c, h, w = self.images.shape
        return c, h, w

    @cached_property
    def sha256(self) -> str:
        """Hash of pixels, labels and class names, or `identity`; an input of the stages that read this dataset."""
        if self.identity is not None:
            return self.identity
        digest = hashlib.sha256(repr((self.images.shape, self.classes)).encode())
        digest.update(np.ascontiguousarray(self.images).data)
        digest.update(self.labels.astype("<i8").data)
        if self.mirrored is not None:
            digest.update(np.ascontiguousarray(self.mirrored).data)
        return digest.hexdigest()

    def take(self, rows: NDArray[np.integer]) -> LabelledImages:
        """The images of these row numbers. One image that stands in for all of them stays one in memory."""
        one = self.images.strides[0] == 0
        images = np.broadcast_to(self.images[0], (len(rows), *self.image_shape)) if one else self.images[rows]
        mirrored = None if self.mirrored is None else self.mirrored[rows]
        identity = None
        if self.identity is not None:
            identity = hashlib.sha256(self.identity.encode() + np.asarray(rows).astype("<i8").tobytes()).hexdigest()
        return replace(self, images=images, labels=self.labels[rows], mirrored=mirrored, identity=identity)

    def split(self, holdout: float, *, seed: int = 0) -> tuple[LabelledImages, LabelledImages]:
        """(training, held-out) images, drawn by the seed; with holdout 0 both are the whole set.

        Raises:
            UserError: no image would be left to train on.
        """
        if holdout == 0:
            return self, self
        order = np.random.default_rng([seed, 0x5911]).permutation(len(self))
        cut = max(1, round(len(self) * holdout))
        if cut == len(self):
            raise UserError(
                f"dataset {self.name}: data.holdout {holdout:g} holds out all {len(self)} images and leaves none to "
                "train on. Lower it, or set it to 0 to train on all of them."
            )
        return self.take(np.sort(order[cut:])), self.take(np.sort(order[:cut]))


def prepare(images: LabelledImages, config: Data) -> LabelledImages:
    """Apply the recipe's image size and flip setting; images that are not square are cropped to their central square.

    Raises:
        UserError: images that are not square, and no size to crop and resize them to.
    """
    pixels = images.images
    h, w = pixels.shape[2:]
    if config.image_size is not None:
        pixels = central_square(pixels)
        if pixels.shape[2] != config.image_size:
            pixels = resize(pixels, config.image_size)
    elif h != w:
        raise UserError(
            f"dataset {images.name}: images are {h}×{w} (H×W), not square. Set data.image_size to crop and resize them."
        )
    flip = images.horizontal_flip if config.horizontal_flip is None else config.horizontal_flip
    return replace(images, images=pixels, horizontal_flip=flip)


def central_square(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(N, C, H, W) uint8 -> its middle (N, C, S, S), S = min(H, W); an odd rest is cut one more at the end."""
    h, w = pixels.shape[2:]
    side = min(h, w)
    top, left = (h - side) // 2, (w - side) // 2
    return pixels[:, :, top : top + side, left : left + side]


def resize(pixels: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """(N, C, H, W) uint8 -> (N, C, size, size) uint8 by Pillow's antialiased bilinear filter."""
    from PIL import Image

    n, c = pixels.shape[:2]
    out = np.empty((n, c, size, size), np.uint8)
    for i in range(n):
        for j in range(c):
            out[i, j] = np.asarray(Image.fromarray(pixels[i, j]).resize((size, size), Image.Resampling.BILINEAR))
    return out


def to_float(pixels: NDArray[Any]) -> NDArray[np.float32]:
    """uint8 0..255 -> float32 in [-1, 1]; latents keep their values, in float32."""
    if pixels.dtype != np.uint8:
        return pixels.astype(np.float32)
    return pixels.astype(np.float32) / 127.5 - 1.0


class ShuffledRows:
    """Endless shuffled row numbers; the rows of batch `step` depend only on (seed, step).

    Every epoch is another permutation of all rows, drawn from (seed, epoch). So a resumed or a distributed run sees the
    same rows as an uninterrupted single process.
    """

    def __init__(self, num_rows: int, *, batch_size: int, seed: int) -> None:
        self.num_rows, self.batch_size, self.seed = num_rows, batch_size, seed
        self._epoch, self._order = -1, np.empty(0, np.int64)

    def _permutation(self, epoch: int) -> NDArray[np.int64]:
        if epoch != self._epoch:
            self._order = np.random.default_rng([self.seed, 0xDA7A, epoch]).permutation(self.num_rows)
            self._epoch = epoch
        return self._order

    def rows(self, step: int) -> NDArray[np.int64]:
        """(batch_size,) row numbers of batch `step`."""
        positions = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        epochs = positions // self.num_rows
        rows = np.empty(self.batch_size, np.int64)
        for epoch in range(int(epochs[0]), int(epochs[-1]) + 1):
            inside = epochs == epoch
            rows[inside] = self._permutation(epoch)[positions[inside] % self.num_rows]
        return rows


class ImageStream:
    """Endless shuffled batches of images; batch `step` depends only on (seed, step)."""

    def __init__(self, data: LabelledImages, *, batch_size: int, seed: int) -> None:
        self.data, self.seed = data, seed
        self._order = ShuffledRows(len(data), batch_size=batch_size, seed=seed)

    def rows(self, step: int) -> NDArray[np.int64]:
        """(batch_size,) row numbers of batch `step`."""
        return self._order.rows(step)

    def batch(self, step: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """x_0 (B, C, H, W) float32, for images in [-1, 1], and y (B,) int64 of batch `step`."""
        rows = self.rows(step)
        pixels = self.data.images[rows]
        if self.data.horizontal_flip:
            flips = np.random.default_rng([self.seed, 0xF11B, step]).random(len(rows)) < 0.5
            mirrored = self.data.mirrored
            pixels[flips] = pixels[flips, :, :, ::-1] if mirrored is None else mirrored[rows[flips]]
        return to_float(pixels), self.data.labels[rows]
