"""CIFAR archives made in the published layout: what is read, in which order, and what is refused."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import struct
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from dashdeploy.data import cifar, load_dataset
from dashdeploy.data.archive import Archive
from dashdeploy.data.cifar import CIFAR10, CIFAR100, Files, Layout, load_layout
from dashdeploy.data.cifar_pickle import read_pickle
from dashdeploy.errors import UserError
from dashdeploy.recipe.schema import Data

RECORDS = 4
LAYOUTS = pytest.mark.parametrize("published", [CIFAR10, CIFAR100], ids=lambda layout: layout.name)


PurePythonPickler: Any = pickle._Pickler


class Python2Pickler(PurePythonPickler):
    """Writes what Python 2 wrote: bytes as its string opcodes, numpy by the module path of its day."""

    dispatch: ClassVar[dict[Any, Any]] = dict(PurePythonPickler.dispatch)

    def save_bytes(self, value: bytes) -> None:
        self.write(b"T" + struct.pack("<i", len(value)) + value)
        self.memoize(value)

    dispatch[bytes] = save_bytes


def python2_pickle(tree: object) -> bytes:
    out = io.BytesIO()
    Python2Pickler(out, protocol=2).dump(tree)
    return out.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


class Source:
    """Random images in a layout, and the files that the published archives would hold of them."""

    def __init__(self, layout: Layout) -> None:
        rng = np.random.default_rng(0)
        n = RECORDS * len(layout.binary.batches)
        self.layout = replace(layout, records=RECORDS)
        self.images = rng.integers(0, 256, (n, 3, 32, 32), dtype=np.uint8)
        self.labels = rng.integers(0, len(layout.classes), n)
        self.names = tuple(f"class {i}" for i in range(len(layout.classes)))

    def _batches(self, files: Files) -> list[tuple[str, np.ndarray, np.ndarray]]:
        pixels = self.images.reshape(-1, RECORDS, 3072)
        return list(zip(files.batches, pixels, self.labels.reshape(-1, RECORDS), strict=True))

    def binary_files(self) -> dict[str, bytes]:
        coarse = [np.full((RECORDS, 1), 19)] * (self.layout.label_bytes - 1)
        files = {
            name: np.concatenate([*coarse, labels[:, None], pixels], axis=1).astype(np.uint8).tobytes()
            for name, pixels, labels in self._batches(self.layout.binary)
        }
        return files | {self.layout.binary.meta: "\n".join(self.names).encode() + b"\n\n"}

    def pickled_files(self) -> dict[str, bytes]:
        files = {
            name: python2_pickle(
                {
                    b"batch_label": b"training batch",
                    self.layout.label_key: labels.tolist(),
                    b"data": pixels,
                    b"filenames": [b"x.png"] * RECORDS,
                }
            )
            for name, pixels, labels in self._batches(self.layout.pickled)
        }
        return files | {
            self.layout.pickled.meta: python2_pickle({self.layout.names_key: [name.encode() for name in self.names]})
        }

    def pack(self, folder: Path, *, version: str, files: dict[str, bytes] | None = None) -> Layout:
        """Write one version's archive; returns the layout that expects this archive's checksum."""
        contents = files if files is not None else getattr(self, f"{version}_files")()
        description: Files = getattr(self.layout, version)
        members = [(tarfile.TarInfo(f"{description.folder}/{name}"), content) for name, content in contents.items()]
        return self.pack_members(folder, members, version=version)

    def pack_members(self, folder: Path, members: list[tuple[tarfile.TarInfo, bytes]], *, version: str) -> Layout:
        description: Files = getattr(self.layout, version)
        path = folder / description.archive.filename
        with tarfile.open(path, "w:gz", compresslevel=1) as tar:
            for info, content in members:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        archive = Archive(description.archive.url, hashlib.md5(path.read_bytes()).hexdigest())
        changed: dict[str, Any] = {version: replace(description, archive=archive)}
        return replace(self.layout, **changed)

    def extract(self, folder: Path, *, version: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in getattr(self, f"{version}_files")().items():
            (folder / name).write_bytes(content)

    def assert_read(self, data: Any, names: tuple[str, ...] | None = None) -> None:
        np.testing.assert_array_equal(data.images, self.images)
        np.testing.assert_array_equal(data.labels, self.labels)
        assert data.labels.dtype == np.int64
        assert data.classes == (self.names if names is None else names)
        assert (data.name, data.horizontal_flip) == (self.layout.name, True)


@pytest.fixture
def source() -> Source:
    return Source(CIFAR10)


def config(folder: Path, *, download: bool = False) -> Data:
    return Data(name="cifar10", path=str(folder), download=download)


@LAYOUTS
@pytest.mark.parametrize("version", ["binary", "pickled"])
def test_an_archive_gives_pixels_fine_labels_and_names(tmp_path: Path, published: Layout, version: str) -> None:
    source = Source(published)
    layout = source.pack(tmp_path, version=version)
    source.assert_read(load_layout(config(tmp_path), layout))
    assert [path.name for path in tmp_path.iterdir()] == [getattr(layout, version).archive.filename]


@LAYOUTS
def test_the_public_loaders_expect_the_published_checksums(tmp_path: Path, published: Layout) -> None:
    for version in ("binary", "pickled"):
        layout = Source(published).pack(tmp_path, version=version)
        with pytest.raises(UserError, match=f"the published .* has {getattr(published, version).archive.md5}"):
            load_dataset(Data(name=published.name, path=str(tmp_path)))
        (tmp_path / getattr(layout, version).archive.filename).unlink()


@LAYOUTS
@pytest.mark.parametrize("inner", [True, False])
def test_an_extracted_binary_folder_is_read(tmp_path: Path, published: Layout, inner: bool) -> None:
    source = Source(published)
    source.extract(tmp_path / published.binary.folder if inner else tmp_path, version="binary")
    source.assert_read(load_dataset(Data(name=published.name, path=str(tmp_path))))


def test_without_a_meta_file_the_well_known_names_are_used(tmp_path: Path, source: Source) -> None:
    source.extract(tmp_path, version="binary")
    (tmp_path / "batches.meta.txt").unlink()
    source.assert_read(load_dataset(config(tmp_path)), names=cifar.CLASSES_10)


@LAYOUTS
def test_the_well_known_names_are_sorted_and_distinct(published: Layout) -> None:
    assert len(published.classes) == {"cifar10": 10, "cifar100": 100}[published.name]
    assert list(published.classes) == sorted(set(published.classes))


def test_the_cache_folder_follows_xdg(tmp_path: Path, source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    source.extract(tmp_path / "xdg" / "dashdeploy" / "cifar10", version="binary")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    source.assert_read(load_dataset(Data(name="cifar10")))
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with pytest.raises(UserError, match=str(tmp_path / "home" / ".cache" / "dashdeploy" / "cifar10")):
        load_dataset(Data(name="cifar10"))


def test_nothing_there_says_how_to_get_it_and_fetches_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar, "fetch", lambda *args, **kwargs: pytest.fail("it must not download unasked"))
    with pytest.raises(UserError, match=r"data\.download: true, or put cifar-10-binary\.tar\.gz from https://"):
        load_dataset(config(tmp_path))


def test_a_download_asked_for_fetches_the_binary_archive(
    tmp_path: Path, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = source.pack(tmp_path, version="binary")
    archive = tmp_path / layout.binary.archive.filename
    calls = []

    def arrive(url: str, target: Path, *, md5: str) -> Path:
        calls.append((url, md5))
        target.parent.mkdir()
        return archive.rename(target)

    monkeypatch.setattr(cifar, "fetch", arrive)
    for _ in range(2):  # the second finds the archive
        source.assert_read(load_layout(config(tmp_path / "cache", download=True), layout))
    assert calls == [("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz", layout.binary.archive.md5)]


def test_the_binary_archive_is_preferred(tmp_path: Path, source: Source) -> None:
    layout = source.pack(tmp_path, version="binary")
    (tmp_path / layout.pickled.archive.filename).write_bytes(b"not even an archive")
    source.assert_read(load_layout(config(tmp_path), layout))


@LAYOUTS
@pytest.mark.parametrize("inner", [True, False])
def test_loose_pickles_are_refused(tmp_path: Path, published: Layout, inner: bool) -> None:
    Source(published).extract(tmp_path / published.pickled.folder if inner else tmp_path, version="pickled")
    with pytest.raises(UserError, match=r"loose pickle files.*Use the binary version"):
        load_dataset(Data(name=published.name, path=str(tmp_path)))


# Damage to binary files


def test_an_extracted_file_may_hold_fewer_records_but_only_whole_ones(tmp_path: Path, source: Source) -> None:
    source.extract(tmp_path, version="binary")
    last = tmp_path / "data_batch_5.bin"
    last.write_bytes(last.read_bytes()[:3073])
    assert len(load_dataset(config(tmp_path))) == 4 * RECORDS + 1
    for content in (b"\0" * 3072, b"\0" * 3074, b""):
        last.write_bytes(content)
        with pytest.raises(UserError, match=rf"data_batch_5\.bin: has {len(content)} bytes.*records of 3073 bytes"):
            load_dataset(config(tmp_path))


def test_an_extracted_file_with_too_many_records_is_refused(tmp_path: Path, source: Source) -> None:
    source.extract(tmp_path, version="binary")
    (tmp_path / "data_batch_2.bin").write_bytes(b"\0" * 3073 * (RECORDS + 1))
    with pytest.raises(UserError, match=r"data_batch_2\.bin: has 15365 bytes, expected at most 12292"):
        load_layout(config(tmp_path), source.layout)


def test_a_missing_batch_is_named(tmp_path: Path, source: Source) -> None:
    source.extract(tmp_path, version="binary")
    (tmp_path / "data_batch_3.bin").unlink()
    with pytest.raises(UserError, match=r"data_batch_3\.bin is missing"):
        load_dataset(config(tmp_path))
    files = source.binary_files()
    del files["data_batch_3.bin"]
    (tmp_path / "b").mkdir()
    with pytest.raises(UserError, match=r"data_batch_3\.bin is not in it"):
        load_layout(config(tmp_path / "b"), source.pack(tmp_path / "b", version="binary", files=files))


@pytest.mark.parametrize(
    ("records", "limit"), [(RECORDS - 1, "expected 12292"), (RECORDS + 1, "expected at most 12292")]
)
def test_an_archived_batch_must_have_its_exact_size(tmp_path: Path, source: Source, records: int, limit: str) -> None:
    files = source.binary_files() | {"data_batch_1.bin": b"\0" * 3073 * records}
    with pytest.raises(UserError, match=rf"data_batch_1\.bin has {3073 * records} bytes, {limit}"):
        load_layout(config(tmp_path), source.pack(tmp_path, version="binary", files=files))


@LAYOUTS
def test_a_label_out_of_range_names_file_and_row(tmp_path: Path, published: Layout) -> None:
    source = Source(published)
    source.labels[2] = len(published.classes)
    source.extract(tmp_path, version="binary")
    message = rf"{published.binary.batches[0]}: label {len(published.classes)} of image 2 is not in"
    with pytest.raises(UserError, match=message):
        load_dataset(Data(name=published.name, path=str(tmp_path)))


def test_a_meta_file_with_another_number_of_names_is_refused(tmp_path: Path, source: Source) -> None:
    source.extract(tmp_path, version="binary")
    (tmp_path / "batches.meta.txt").write_text("cat\ndog\n")
    with pytest.raises(UserError, match=r"batches\.meta\.txt: names 2 classes, expected 10"):
        load_dataset(config(tmp_path))


# Hostile and damaged archives


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE])
def test_a_member_that_is_no_regular_file_is_refused(tmp_path: Path, source: Source, kind: bytes) -> None:
    info = tarfile.TarInfo("cifar-10-batches-bin/data_batch_1.bin")
    info.type, info.linkname = kind, "/etc/passwd"
    layout = source.pack_members(tmp_path, [(info, b"")], version="binary")
    with pytest.raises(UserError, match=r"data_batch_1\.bin is not a regular file"):
        load_layout(config(tmp_path), layout)


def test_a_member_there_twice_is_refused(tmp_path: Path, source: Source) -> None:
    name, content = "cifar-10-batches-bin/data_batch_1.bin", source.binary_files()["data_batch_1.bin"]
    layout = source.pack_members(tmp_path, [(tarfile.TarInfo(name), content)] * 2, version="binary")
    with pytest.raises(UserError, match=r"data_batch_1\.bin is in it twice"):
        load_layout(config(tmp_path), layout)


def test_other_members_are_passed_over_and_never_written(tmp_path: Path, source: Source) -> None:
    files = source.binary_files() | {"../../escaped": b"x", "readme.html": b"x"}
    (tmp_path / "a" / "b").mkdir(parents=True)
    layout = source.pack(tmp_path / "a" / "b", version="binary", files=files)
    source.assert_read(load_layout(config(tmp_path / "a" / "b"), layout))
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "b", "cifar-10-binary.tar.gz"]


def test_a_truncated_archive_is_named_even_if_its_checksum_fits(tmp_path: Path, source: Source) -> None:
    layout = source.pack(tmp_path, version="binary")
    path = tmp_path / layout.binary.archive.filename
    path.write_bytes(path.read_bytes()[:5000])
    archive = replace(layout.binary.archive, md5=hashlib.md5(path.read_bytes()).hexdigest())
    layout = replace(layout, binary=replace(layout.binary, archive=archive))
    with pytest.raises(UserError, match=r"cifar-10-binary\.tar\.gz: is not a whole tar\.gz archive"):
        load_layout(config(tmp_path), layout)


class Touch:
    """Makes a folder when it is unpickled by a careless reader."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_a_pickled_archive_with_another_checksum_is_never_unpickled(
    tmp_path: Path, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    source.pack(tmp_path, version="pickled")
    monkeypatch.setattr(cifar, "read_pickle", lambda *args, **kwargs: pytest.fail("it must not be opened"))
    with pytest.raises(UserError, match="the published"):
        load_layout(config(tmp_path), source.layout)


def test_a_pickle_cannot_call_anything(tmp_path: Path, source: Source) -> None:
    trap = tmp_path / "trap"
    evil = pickle.dumps({b"data": Touch(trap)}, protocol=3)
    pickle.loads(evil)  # the trap works
    trap.rmdir()
    files = source.pickled_files() | {"data_batch_1": evil}
    layout = source.pack(tmp_path, version="pickled", files=files)
    with pytest.raises(UserError, match=r"data_batch_1: refused or damaged pickle: it asks for (posix|nt)\.mkdir"):
        load_layout(config(tmp_path), layout)
    assert not trap.exists()


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({b"data": np.zeros(3, np.float32)}, "dtype b?'f4'"),
        ({b"data": np.array([None])}, "dtype b?'O8'"),
        ({b"data": np.ma.zeros(3)}, r"it asks for numpy\.ma"),
        ({b"data": slice(3)}, "it asks for .*builtin.*slice"),
        ([1, 2], "holds a list, expected a dict"),
    ],
)
def test_a_pickle_of_other_things_is_refused(tree: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_pickle(python2_pickle(tree), where="batch")


def test_a_truncated_pickle_is_refused() -> None:
    whole = python2_pickle({b"data": np.zeros(300, np.uint8)})
    assert read_pickle(whole, where="batch")[b"data"].shape == (300,)
    for length in (0, 10, len(whole) // 2, len(whole) - 1):
        with pytest.raises(UserError, match="batch: refused or damaged pickle"):
            read_pickle(whole[:length], where="batch")


def test_arrays_are_read_in_either_memory_order() -> None:
    grid = np.arange(6, dtype=np.uint8).reshape(2, 3)
    for array in (grid, np.asfortranarray(grid)):
        np.testing.assert_array_equal(read_pickle(python2_pickle({b"a": array}), where="batch")[b"a"], grid)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({b"data": np.zeros((RECORDS, 3071), np.uint8)}, r"b'data' is not \(4, 3072\) uint8"),
        ({b"data": [1, 2]}, r"b'data' is not \(4, 3072\) uint8"),
        ({b"labels": [0] * (RECORDS - 1)}, "b'labels' is not a list of 4 labels"),
        ({b"labels": [0, 1, 10, 0]}, r"label 10 of image 2 is not in 0\.\.9"),
        ({b"labels": [0, b"1", 1, 0]}, r"label b'1' of image 1 is not in 0\.\.9"),
    ],
)
def test_a_pickled_batch_of_other_shape_is_refused(
    tmp_path: Path, source: Source, change: dict[bytes, Any], message: str
) -> None:
    batch = {b"data": source.images[:RECORDS].reshape(RECORDS, 3072), b"labels": [0] * RECORDS} | change
    files = source.pickled_files() | {"data_batch_1": python2_pickle(batch)}
    with pytest.raises(UserError, match=f"data_batch_1: {message}"):
        load_layout(config(tmp_path), source.pack(tmp_path, version="pickled", files=files))
