"""Fashion-MNIST's idx files: what is read, and that each kind of damage is named."""

from __future__ import annotations

import gzip
import re
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from dashdeploy.data import fashion_mnist, load_dataset
from dashdeploy.errors import UserError
from dashdeploy.recipe.schema import Data

IMAGES, LABELS = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"


def idx(array: np.ndarray, *, code: int = 8, shape: tuple[int, ...] | None = None) -> bytes:
    shape = array.shape if shape is None else shape
    header = bytes([0, 0, code, len(shape)]) + struct.pack(f">{len(shape)}I", *shape)
    return header + array.astype(np.uint8).tobytes()


def write(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(gzip.compress(content, 1) if name.endswith(".gz") else content)


def config(folder: Path) -> Data:
    return Data(name="fashion_mnist", path=str(folder))


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (12, 28, 28), dtype=np.uint8)


@pytest.fixture
def labels() -> np.ndarray:
    return np.arange(12, dtype=np.uint8) % 10


@pytest.fixture
def folder(tmp_path: Path, pixels: np.ndarray, labels: np.ndarray) -> Path:
    write(tmp_path, IMAGES, idx(pixels))
    write(tmp_path, LABELS, idx(labels))
    return tmp_path


def test_pixels_labels_and_class_names_are_read(folder: Path, pixels: np.ndarray, labels: np.ndarray) -> None:
    data = load_dataset(config(folder))
    assert data.image_shape == (1, 28, 28)
    np.testing.assert_array_equal(data.images[:, 0], pixels)
    np.testing.assert_array_equal(data.labels, labels)
    assert data.labels.dtype == np.int64
    assert (data.classes[0], data.classes[9]) == ("T-shirt/top", "Ankle boot")
    assert data.horizontal_flip


def test_the_recipe_can_turn_flips_off(folder: Path) -> None:
    assert not load_dataset(Data(name="fashion_mnist", path=str(folder), horizontal_flip=False)).horizontal_flip


def test_uncompressed_files_hold_the_same(tmp_path: Path, folder: Path, pixels: np.ndarray, labels: np.ndarray) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    write(plain, IMAGES.removesuffix(".gz"), idx(pixels))
    write(plain, LABELS.removesuffix(".gz"), idx(labels))
    assert load_dataset(config(plain)).sha256 == load_dataset(config(folder)).sha256


def test_missing_files_name_the_debian_package_and_the_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", tmp_path / "absent")
    with pytest.raises(UserError, match=r"absent.*apt-get install dataset-fashion-mnist; or set data\.path"):
        load_dataset(Data(name="fashion_mnist"))


ZEROS = np.zeros((12, 28, 28), np.uint8)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (idx(ZEROS, code=0x0D), "starts with 00000d03"),
        (idx(ZEROS.reshape(12, 784)), "starts with 00000802"),
        (b"", "starts with nothing"),
        (idx(ZEROS)[:10], "ends inside its header, after 10 bytes"),
        (idx(ZEROS.reshape(12, 14, 56)), "items are 14×56, not 28×28"),
        (idx(ZEROS)[:-1], "promises 9408 bytes .* holds only 9407"),
        (idx(ZEROS) + b"\0", "promises 9408 bytes .* holds more"),
        (idx(ZEROS[:0]), "claims 0 items"),
        (idx(ZEROS[:11]), "holds 11 images, but .* holds 12 labels"),
    ],
)
@pytest.mark.parametrize("name", [IMAGES, IMAGES.removesuffix(".gz")])
def test_a_damaged_image_file_is_named(folder: Path, name: str, content: bytes, message: str) -> None:
    (folder / IMAGES).unlink()
    write(folder, name, content)
    with pytest.raises(UserError, match=message) as caught:
        load_dataset(config(folder))
    assert str(folder / name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_truncated_gzip_is_named(folder: Path) -> None:
    whole = (folder / IMAGES).read_bytes()
    (folder / IMAGES).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=f"{re.escape(str(folder / IMAGES))}: the gzip data is truncated"):
        load_dataset(config(folder))


def test_a_gzip_whose_checksum_is_wrong_is_refused(folder: Path) -> None:
    damaged = bytearray((folder / IMAGES).read_bytes())
    damaged[-8] ^= 0xFF  # the CRC-32 of the content
    (folder / IMAGES).write_bytes(bytes(damaged))
    with pytest.raises(UserError, match=f"{IMAGES}: .*CRC"):
        load_dataset(config(folder))


def test_a_file_that_is_no_gzip_is_named(folder: Path) -> None:
    (folder / LABELS).write_bytes(b"<html>404</html>")
    with pytest.raises(UserError, match=f"{LABELS}: could not be read .*gzip"):
        load_dataset(config(folder))


def test_a_label_out_of_range_names_its_row(folder: Path, labels: np.ndarray) -> None:
    labels[7] = 10
    write(folder, LABELS, idx(labels))
    with pytest.raises(UserError, match=rf"{LABELS}: label 10 of image 7 is not in 0\.\.9"):
        load_dataset(config(folder))


@pytest.mark.parametrize(
    ("count", "message"), [(1 << 17, "holds only 9408"), (0xFFFFFFFF, "claims 4294967295 items; expected 1 to")]
)
def test_memory_does_not_follow_a_lying_header(folder: Path, count: int, message: str) -> None:
    write(folder, IMAGES, idx(ZEROS, shape=(count, 28, 28)))
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=message):
            load_dataset(config(folder))
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # 2^17 images would be 103 MB; what is there is 9 kB, read in chunks of at most 1 MiB.
    assert peak_bytes < 8 << 20


@pytest.mark.skipif(
    not (fashion_mnist.DEBIAN_FOLDER / IMAGES).is_file(), reason="Debian's dataset-fashion-mnist is not installed"
)
def test_the_debian_package_holds_the_published_training_set() -> None:
    data = load_dataset(Data(name="fashion_mnist"))
    assert data.images.shape == (60_000, 1, 28, 28)
    assert np.bincount(data.labels).tolist() == [6000] * 10
    # The published mean of the training pixels is 0.2860.
    assert data.images.mean() / 255 == pytest.approx(0.2860, abs=1e-4)


def test_a_link_that_leads_nowhere_does_not_make_way_for_another_file(tmp_path: Path, pixels: np.ndarray) -> None:
    write(tmp_path, IMAGES, idx(pixels))
    write(tmp_path, LABELS.removesuffix(".gz"), idx(np.zeros(12, np.uint8)))
    load_dataset(config(tmp_path))
    (tmp_path / LABELS).symlink_to("nowhere")
    with pytest.raises(UserError, match=f"{LABELS}: a link to nowhere, which is not there"):
        load_dataset(config(tmp_path))
