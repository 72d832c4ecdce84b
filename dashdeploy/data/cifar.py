"""CIFAR-10 and CIFAR-100: 50 000 colour images of 32×32, from the published binary archives."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dashdeploy.data.archive import Archive, read_members
from dashdeploy.data.download import fetch
from dashdeploy.data.images import LabelledImages, is_file
from dashdeploy.errors import UserError
from dashdeploy.locate import cache_folder, expanded
from dashdeploy.recipe.schema import Data

BASE_URL = "https://www.cs.toronto.edu/~kriz/"
PIXEL_BYTES = 3 * 32 * 32
MAX_META_BYTES = 1 << 16

CLASSES_10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_HUNDRED = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
    caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant
    flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree
    motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate
    poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider
    squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
    wardrobe whale willow_tree wolf woman worm
"""
CLASSES_100 = tuple(_HUNDRED.split())


@dataclass(frozen=True)
class Layout:
    """How a CIFAR set's binary version is published.

    A record is `label_bytes` labels, then 3072 bytes: the R, G and B planes, row by row.

    Attributes:
        name: the registered name.
        archive: as published.
        folder: the archive's only folder.
        batches: the training files in it, in order.
        meta: the file in it that names the classes.
        label_bytes: labels in a record; the last one is used (CIFAR-100 has a coarse and a fine one).
        records: images in each batch file.
        classes: the well-known names, used where the meta file is absent.
        pickled: archive, folder and first file of the Python version, which is not read.
    """

    name: str
    archive: Archive
    folder: str
    batches: tuple[str, ...]
    meta: str
    label_bytes: int
    records: int
    classes: tuple[str, ...]
    pickled: tuple[str, ...]


CIFAR10 = Layout(
    name="cifar10",
    archive=Archive(BASE_URL + "cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530"),
    folder="cifar-10-batches-bin",
    batches=tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
    meta="batches.meta.txt",
    label_bytes=1,
    records=10_000,
    classes=CLASSES_10,
    pickled=("cifar-10-python.tar.gz", "cifar-10-batches-py", "data_batch_1"),
)
CIFAR100 = Layout(
    name="cifar100",
    archive=Archive(BASE_URL + "cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8"),
    folder="cifar-100-binary",
    batches=("train.bin",),
    meta="fine_label_names.txt",
    label_bytes=2,
    records=50_000,
    classes=CLASSES_100,
    pickled=("cifar-100-python.tar.gz", "cifar-100-python", "train"),
)


def load_cifar10(config: Data) -> LabelledImages:
    """CIFAR-10's training images, 10 classes; see `load_layout`."""
    return load_layout(config, CIFAR10)


def load_cifar100(config: Data) -> LabelledImages:
    """CIFAR-100's training images with its 100 fine classes; see `load_layout`."""
    return load_layout(config, CIFAR100)


def load_layout(config: Data, layout: Layout) -> LabelledImages:
    """A CIFAR set (https://www.cs.toronto.edu/~kriz/cifar.html) from `config.path`, or the user's cache folder.

    The first of these is read: the extracted binary version, the binary archive, or, where config.download is set, the
    archive fetched. An archive is opened only when its checksum is the published one.

    Returns:
        images (N, 3, 32, 32) uint8 in RGB; labels (N,) int64 in [0, K). A mirrored image keeps its class.

    Raises:
        UserError: no files, damaged files, or another archive than the published one.
    """
    root = expanded(config.path) if config.path is not None else cache_folder() / layout.name
    archive = root / layout.archive.filename
    for folder in (root, root / layout.folder):
        if any(is_file(folder / name) for name in layout.batches):
            return _from_folder(folder, layout)
    if is_file(archive):
        return _from_archive(archive, layout)
    if config.download:
        return _from_archive(fetch(layout.archive.url, archive, md5=layout.archive.md5), layout)
    fix = f"set data.download: true, or put {layout.archive.filename} from {BASE_URL} there"
    if pickled := [name for name in layout.pickled if (root / name).exists()]:
        raise UserError(f"dataset {layout.name}: {root / pickled[0]} is the Python version, which is not read: {fix}")
    raise UserError(f"dataset {layout.name}: no {layout.archive.filename} and no {layout.folder} in {root}: {fix}")


def _from_folder(folder: Path, layout: Layout) -> LabelledImages:
    """An extracted binary version; its files may hold fewer records than the published ones."""
    most, batches = layout.records * (layout.label_bytes + PIXEL_BYTES), []
    try:
        for name in layout.batches:
            path = folder / name
            if not is_file(path):
                raise UserError(f"{path} is missing; expected all of {', '.join(layout.batches)}")
            if path.stat().st_size > most:
                raise UserError(f"{path}: has {path.stat().st_size} bytes, expected at most {most}")
            batches.append(_decode(path.read_bytes(), layout, where=str(path)))
        meta = folder / layout.meta
        names = _names(meta.read_bytes(), layout, where=str(meta)) if is_file(meta) else layout.classes
    except OSError as error:
        raise UserError(f"{folder}: could not be read ({error})") from error
    return _assemble(batches, names, layout)


def _from_archive(path: Path, layout: Layout) -> LabelledImages:
    size = layout.records * (layout.label_bytes + PIXEL_BYTES)
    wanted = {f"{layout.folder}/{name}": size for name in layout.batches}
    meta = f"{layout.folder}/{layout.meta}"
    contents = read_members(path, layout.archive, wanted | {meta: MAX_META_BYTES})
    batches = []
    for name in wanted:
        if name not in contents:
            raise UserError(f"{path}: {name} is not in it")
        if len(contents[name]) != size:
            raise UserError(f"{path}: {name} has {len(contents[name])} bytes, expected {size}")
        batches.append(_decode(contents[name], layout, where=f"{path}: {name}"))
    names = _names(contents[meta], layout, where=f"{path}: {meta}") if meta in contents else layout.classes
    return _assemble(batches, names, layout)


def _decode(content: bytes, layout: Layout, *, where: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Binary records -> pixels (N, 3072) uint8 and labels (N,) int64."""
    record = layout.label_bytes + PIXEL_BYTES
    if not content or len(content) % record:
        raise UserError(f"{where}: has {len(content)} bytes, which is no whole number of records of {record} bytes")
    rows = np.frombuffer(content, np.uint8).reshape(-1, record)
    labels, k = rows[:, layout.label_bytes - 1].astype(np.int64), len(layout.classes)
    if labels.max() >= k:
        row = int(np.argmax(labels >= k))
        raise UserError(f"{where}: label {labels[row]} of image {row} is not in 0..{k - 1}")
    return rows[:, layout.label_bytes :], labels


def _names(content: bytes, layout: Layout, *, where: str) -> tuple[str, ...]:
    """One class name a line; blank lines do not count."""
    names = tuple(line.strip() for line in content.decode("utf-8", "replace").splitlines() if line.strip())
    if len(names) != len(layout.classes):
        raise UserError(f"{where}: names {len(names)} classes, expected {len(layout.classes)}")
    return names


def _assemble(
    batches: list[tuple[NDArray[np.uint8], NDArray[np.int64]]], names: tuple[str, ...], layout: Layout
) -> LabelledImages:
    return LabelledImages(
        name=layout.name,
        images=np.concatenate([pixels for pixels, _ in batches]).reshape(-1, 3, 32, 32),
        labels=np.concatenate([labels for _, labels in batches]),
        classes=names,
        horizontal_flip=True,
    )
