"""CIFAR-10 and CIFAR-100: 50 000 colour images of 32×32, from the published archives."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dashdeploy.data.archive import Archive, read_members
from dashdeploy.data.cifar_pickle import read_pickle
from dashdeploy.data.download import fetch
from dashdeploy.data.images import LabelledImages
from dashdeploy.errors import UserError
from dashdeploy.locate import cache_folder
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
class Files:
    """One version (binary or pickled) of a CIFAR set.

    Attributes:
        archive: as published.
        folder: the archive's only folder.
        batches: the training files in it, in order.
        meta: the file in it that names the classes.
    """

    archive: Archive
    folder: str
    batches: tuple[str, ...]
    meta: str


@dataclass(frozen=True)
class Layout:
    """How a CIFAR set is stored.

    Attributes:
        name: the registered name.
        binary: a record is `label_bytes` labels, then 3072 bytes: the R, G and B planes, row by row.
        pickled: Python 2 pickles of a dict.
        label_bytes: labels in a binary record; the last is used (CIFAR-100: coarse, fine).
        label_key: the key of the labels in a pickled batch.
        names_key: the key of the class names in the pickled meta file.
        records: images in each batch file.
        classes: the well-known names, for when the meta file is absent.
    """

    name: str
    binary: Files
    pickled: Files
    label_bytes: int
    label_key: bytes
    names_key: bytes
    records: int
    classes: tuple[str, ...]


_FIVE = tuple(f"data_batch_{i}" for i in range(1, 6))
CIFAR10 = Layout(
    name="cifar10",
    binary=Files(
        Archive(BASE_URL + "cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530"),
        folder="cifar-10-batches-bin", batches=tuple(f"{name}.bin" for name in _FIVE), meta="batches.meta.txt",
    ),
    pickled=Files(
        Archive(BASE_URL + "cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a"),
        folder="cifar-10-batches-py", batches=_FIVE, meta="batches.meta",
    ),
    label_bytes=1, label_key=b"labels", names_key=b"label_names", records=10_000, classes=CLASSES_10,
)  # fmt: skip
CIFAR100 = Layout(
    name="cifar100",
    binary=Files(
        Archive(BASE_URL + "cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8"),
        folder="cifar-100-binary", batches=("train.bin",), meta="fine_label_names.txt",
    ),
    pickled=Files(
        Archive(BASE_URL + "cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85"),
        folder="cifar-100-python", batches=("train",), meta="meta",
    ),
    label_bytes=2, label_key=b"fine_labels", names_key=b"fine_label_names", records=50_000, classes=CLASSES_100,
)  # fmt: skip


def load_cifar10(config: Data) -> LabelledImages:
    """CIFAR-10's training images, 10 classes; see `load_layout`."""
    return load_layout(config, CIFAR10)


def load_cifar100(config: Data) -> LabelledImages:
    """CIFAR-100's training images with its 100 fine classes; see `load_layout`."""
    return load_layout(config, CIFAR100)


def load_layout(config: Data, layout: Layout) -> LabelledImages:
    """A CIFAR set (https://www.cs.toronto.edu/~kriz/cifar.html) from `config.path`, or the user's cache folder.

    The first of these that is there is read: the extracted binary version, the binary archive, the pickled
    archive; else the binary archive is fetched, if config.download says so. An archive is opened only when
    its checksum is the published one. Pickles outside of an archive are refused.

    Returns:
        images (N, 3, 32, 32) uint8 in RGB; labels (N,) int64 in [0, K); mirrored images are of their class.

    Raises:
        UserError: nothing is there, or what is there is damaged or not the published archive.
    """
    root = Path(config.path).expanduser() if config.path is not None else cache_folder() / layout.name
    binary, pickled = root / layout.binary.archive.filename, root / layout.pickled.archive.filename
    for folder in (root, root / layout.binary.folder):
        if any((folder / name).is_file() for name in layout.binary.batches):
            return _from_folder(folder, layout)
    if binary.is_file():
        return _from_binary_archive(binary, layout)
    if pickled.is_file():
        return _from_pickled_archive(pickled, layout)
    if config.download:
        return _from_binary_archive(fetch(layout.binary.archive.url, binary, md5=layout.binary.archive.md5), layout)
    way_out = f"set data.download: true, or put {layout.binary.archive.filename} from {BASE_URL} there"
    for folder in (root, root / layout.pickled.folder):
        if any((folder / name).is_file() for name in layout.pickled.batches):
            raise UserError(
                f"dataset {layout.name}: {folder} holds loose pickle files, which can run code and are not opened. "
                f"Use the binary version: {way_out}"
            )
    raise UserError(f"dataset {layout.name}: no archive and no {layout.binary.folder} in {root}: {way_out}")


def _from_folder(folder: Path, layout: Layout) -> LabelledImages:
    """An extracted binary version; the files may hold fewer records than the published ones."""
    record, batches = layout.label_bytes + PIXEL_BYTES, []
    try:
        for name in layout.binary.batches:
            path = folder / name
            if not path.is_file():
                raise UserError(f"{path} is missing; expected all of {', '.join(layout.binary.batches)}")
            if path.stat().st_size > layout.records * record:
                raise UserError(f"{path}: has {path.stat().st_size} bytes, expected at most {layout.records * record}")
            batches.append(_decode(path.read_bytes(), layout, where=str(path)))
        meta = folder / layout.binary.meta
        names = _names(meta.read_bytes(), layout, where=str(meta)) if meta.is_file() else layout.classes
    except OSError as error:
        raise UserError(f"{folder}: could not be read ({error})") from error
    return _assemble(batches, names, layout)


def _from_binary_archive(path: Path, layout: Layout) -> LabelledImages:
    size = layout.records * (layout.label_bytes + PIXEL_BYTES)
    contents, meta = _members(path, layout.binary, max_bytes=size)
    batches = []
    for name, content in contents.items():
        if len(content) != size:
            raise UserError(f"{path}: {name} has {len(content)} bytes, expected {size}")
        batches.append(_decode(content, layout, where=f"{path}: {name}"))
    names = layout.classes if meta is None else _names(meta, layout, where=f"{path}: {layout.binary.meta}")
    return _assemble(batches, names, layout)


def _from_pickled_archive(path: Path, layout: Layout) -> LabelledImages:
    # A record also carries its labels and a file name: about 35 bytes.
    contents, meta = _members(path, layout.pickled, max_bytes=layout.records * (PIXEL_BYTES + 256) + MAX_META_BYTES)
    batches = []
    for name, content in contents.items():
        where = f"{path}: {name}"
        batch = read_pickle(content, where=where)
        pixels, labels = batch.get(b"data"), batch.get(layout.label_key)
        if not isinstance(pixels, np.ndarray) or pixels.shape != (layout.records, PIXEL_BYTES):
            raise UserError(f"{where}: b'data' is not ({layout.records}, {PIXEL_BYTES}) uint8")
        if not isinstance(labels, list) or len(labels) != layout.records:
            raise UserError(f"{where}: {layout.label_key!r} is not a list of {layout.records} labels")
        batches.append((pixels, _checked(labels, layout, where=where)))
    where = f"{path}: {layout.pickled.meta}"
    names: tuple[str, ...] = layout.classes
    if meta is not None:
        entry = read_pickle(meta, where=where).get(layout.names_key)
        if not isinstance(entry, list) or not all(isinstance(name, bytes) for name in entry):
            raise UserError(f"{where}: {layout.names_key!r} is not a list of class names")
        names = _names(b"\n".join(entry), layout, where=where)
    return _assemble(batches, names, layout)


def _members(path: Path, files: Files, *, max_bytes: int) -> tuple[dict[str, bytes], bytes | None]:
    """({member: content} of all batches in order, content of the meta file or None)."""
    wanted = {f"{files.folder}/{name}": max_bytes for name in files.batches}
    meta = f"{files.folder}/{files.meta}"
    found = read_members(path, files.archive, wanted | {meta: MAX_META_BYTES})
    for name in wanted:
        if name not in found:
            raise UserError(f"{path}: {name} is not in it")
    return {name: found[name] for name in wanted}, found.get(meta)


def _decode(content: bytes, layout: Layout, *, where: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Binary records -> pixels (N, 3072) uint8 and labels (N,) int64."""
    record = layout.label_bytes + PIXEL_BYTES
    if not content or len(content) % record:
        raise UserError(f"{where}: has {len(content)} bytes, which is no whole number of records of {record} bytes")
    rows = np.frombuffer(content, np.uint8).reshape(-1, record)
    return rows[:, layout.label_bytes :], _checked(rows[:, layout.label_bytes - 1].tolist(), layout, where=where)


def _checked(labels: list[Any], layout: Layout, *, where: str) -> NDArray[np.int64]:
    k = len(layout.classes)
    for row, label in enumerate(labels):
        if type(label) is not int or not 0 <= label < k:
            raise UserError(f"{where}: label {label!r} of image {row} is not in 0..{k - 1}")
    return np.array(labels, np.int64)


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
