"""CIFAR archives made in the published layout: what is read, in which order, and what is refused."""

from __future__ import annotations

import hashlib
import io
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dashdeploy.data import cifar, load_dataset
from dashdeploy.data.archive import Archive
from dashdeploy.data.cifar import CIFAR10, CIFAR100, Layout, load_layout
from dashdeploy.errors import UserError
from dashdeploy.recipe.schema import Data

RECORDS = 4
LAYOUTS = pytest.mark.parametrize("published", [CIFAR10, CIFAR100], ids=lambda layout: layout.name)


class Source:
    """Random images in a layout, and the files that the published archives would hold of them."""

    def __init__(self, layout: Layout) -> None:
        rng = np.random.default_rng(0)
        n = RECORDS * len(layout.batches)
        self.layout = replace(layout, records=RECORDS)
        self.images = rng.integers(0, 256, (n, 3, 32, 32), dtype=np.uint8)
        self.labels = rng.integers(0, len(layout.classes), n)
        self.names = tuple(f"class {i}" for i in range(len(layout.classes)))

    def files(self) -> dict[str, bytes]:
        coarse = [np.full((RECORDS, 1), 19)] * (self.layout.label_bytes - 1)
        pixels, labels = self.images.reshape(-1, RECORDS, 3072), self.labels.reshape(-1, RECORDS, 1)
        files = {
            name: np.concatenate([*coarse, fine, planes], axis=1).astype(np.uint8).tobytes()
            for name, planes, fine in zip(self.layout.batches, pixels, labels, strict=True)
        }
        return files | {self.layout.meta: "\n".join(self.names).encode() + b"\n\n"}

    def pack(self, folder: Path, *, files: dict[str, bytes] | None = None) -> Layout:
        """Write the archive; returns the layout that expects this archive's checksum."""
        contents = self.files() if files is None else files
        return self.pack_members(
            folder,
            [(tarfile.TarInfo(f"{self.layout.folder}/{name}"), content) for name, content in contents.items()],
        )

    def pack_members(self, folder: Path, members: list[tuple[tarfile.TarInfo, bytes]]) -> Layout:
        path = folder / self.layout.archive.filename
        with tarfile.open(path, "w:gz", compresslevel=1) as tar:
            for info, content in members:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        archive = Archive(self.layout.archive.url, hashlib.md5(path.read_bytes()).hexdigest())
        return replace(self.layout, archive=archive)

    def extract(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.files().items():
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
def test_an_archive_gives_pixels_fine_labels_and_names(tmp_path: Path, published: Layout) -> None:
    source = Source(published)
    layout = source.pack(tmp_path)
    source.assert_read(load_layout(config(tmp_path), layout))
    assert [path.name for path in tmp_path.iterdir()] == [layout.archive.filename]


@LAYOUTS
def test_the_public_loaders_expect_the_published_checksums(tmp_path: Path, published: Layout) -> None:
    Source(published).pack(tmp_path)
    with pytest.raises(UserError, match=f"the published .* has {published.archive.md5}"):
        load_dataset(Data(name=published.name, path=str(tmp_path)))


@LAYOUTS
@pytest.mark.parametrize("inner", [True, False])
def test_an_extracted_binary_folder_is_read(tmp_path: Path, published: Layout, inner: bool) -> None:
    source = Source(published)
    source.extract(tmp_path / published.folder if inner else tmp_path)
    source.assert_read(load_dataset(Data(name=published.name, path=str(tmp_path))))


def test_without_a_meta_file_the_well_known_names_are_used(tmp_path: Path, source: Source) -> None:
    source.extract(tmp_path)
    (tmp_path / "batches.meta.txt").unlink()
    source.assert_read(load_dataset(config(tmp_path)), names=cifar.CLASSES_10)


@LAYOUTS
def test_the_well_known_names_are_sorted_and_distinct(published: Layout) -> None:
    assert len(published.classes) == {"cifar10": 10, "cifar100": 100}[published.name]
    assert list(published.classes) == sorted(set(published.classes))


def test_the_cache_folder_follows_xdg(tmp_path: Path, source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    source.extract(tmp_path / "xdg" / "dashdeploy" / "cifar10")
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
    layout = source.pack(tmp_path)
    archive = tmp_path / layout.archive.filename
    calls = []

    def arrive(url: str, target: Path, *, md5: str) -> Path:
        calls.append((url, md5))
        target.parent.mkdir()
        return archive.rename(target)

    monkeypatch.setattr(cifar, "fetch", arrive)
    for _ in range(2):  # the second finds the archive
        source.assert_read(load_layout(config(tmp_path / "cache", download=True), layout))
    assert calls == [("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz", layout.archive.md5)]


@LAYOUTS
@pytest.mark.parametrize("place", [0, 1, 2])
def test_the_python_version_is_not_read_and_the_message_says_what_to_download(
    tmp_path: Path, published: Layout, place: int
) -> None:
    there = tmp_path / published.pickled[place]
    there.write_bytes(b"a pickle")
    expected = (
        f"dataset {published.name}: {there} is the Python version, which is not read: "
        f"set data.download: true, or put {published.archive.filename} from https://www.cs.toronto.edu/~kriz/ there"
    )
    with pytest.raises(UserError) as caught:
        load_dataset(Data(name=published.name, path=str(tmp_path)))
    assert str(caught.value) == expected
    layout = Source(published).pack(tmp_path)
    assert len(load_layout(config(tmp_path), layout)) == RECORDS * len(published.batches), "the binary archive is read"


# Damage to binary files


def test_an_extracted_file_may_hold_fewer_records_but_only_whole_ones(tmp_path: Path, source: Source) -> None:
    source.extract(tmp_path)
    last = tmp_path / "data_batch_5.bin"
    last.write_bytes(last.read_bytes()[:3073])
    assert len(load_dataset(config(tmp_path))) == 4 * RECORDS + 1
    for content in (b"\0" * 3072, b"\0" * 3074, b""):
        last.write_bytes(content)
        with pytest.raises(UserError, match=rf"data_batch_5\.bin: has {len(content)} bytes.*records of 3073 bytes"):
            load_dataset(config(tmp_path))


def test_an_extracted_file_with_too_many_records_is_refused(tmp_path: Path, source: Source) -> None:
    source.extract(tmp_path)
    (tmp_path / "data_batch_2.bin").write_bytes(b"\0" * 3073 * (RECORDS + 1))
    with pytest.raises(UserError, match=r"data_batch_2\.bin: has 15365 bytes, expected at most 12292"):
        load_layout(config(tmp_path), source.layout)


def test_a_missing_batch_is_named(tmp_path: Path, source: Source) -> None:
    source.extract(tmp_path)
    (tmp_path / "data_batch_3.bin").unlink()
    with pytest.raises(UserError, match=r"data_batch_3\.bin is missing"):
        load_dataset(config(tmp_path))
    files = source.files()
    del files["data_batch_3.bin"]
    (tmp_path / "b").mkdir()
    with pytest.raises(UserError, match=r"data_batch_3\.bin is not in it"):
        load_layout(config(tmp_path / "b"), source.pack(tmp_path / "b", files=files))


@pytest.mark.parametrize(
    ("records", "limit"), [(RECORDS - 1, "expected 12292"), (RECORDS + 1, "expected at most 12292")]
)
def test_an_archived_batch_must_have_its_exact_size(tmp_path: Path, source: Source, records: int, limit: str) -> None:
    files = source.files() | {"data_batch_1.bin": b"\0" * 3073 * records}
    with pytest.raises(UserError, match=rf"data_batch_1\.bin has {3073 * records} bytes, {limit}"):
        load_layout(config(tmp_path), source.pack(tmp_path, files=files))


@LAYOUTS
def test_a_label_out_of_range_names_file_and_row(tmp_path: Path, published: Layout) -> None:
    source = Source(published)
    source.labels[2] = len(published.classes)
    source.extract(tmp_path)
    message = rf"{published.batches[0]}: label {len(published.classes)} of image 2 is not in"
    with pytest.raises(UserError, match=message):
        load_dataset(Data(name=published.name, path=str(tmp_path)))


def test_a_meta_file_with_another_number_of_names_is_refused(tmp_path: Path, source: Source) -> None:
    source.extract(tmp_path)
    (tmp_path / "batches.meta.txt").write_text("cat\ndog\n")
    with pytest.raises(UserError, match=r"batches\.meta\.txt: names 2 classes, expected 10"):
        load_dataset(config(tmp_path))


# Hostile and damaged archives


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE])
def test_a_member_that_is_no_regular_file_is_refused(tmp_path: Path, source: Source, kind: bytes) -> None:
    info = tarfile.TarInfo("cifar-10-batches-bin/data_batch_1.bin")
    info.type, info.linkname = kind, "/etc/passwd"
    layout = source.pack_members(tmp_path, [(info, b"")])
    with pytest.raises(UserError, match=r"data_batch_1\.bin is not a regular file"):
        load_layout(config(tmp_path), layout)


def test_a_member_there_twice_is_refused(tmp_path: Path, source: Source) -> None:
    name, content = "cifar-10-batches-bin/data_batch_1.bin", source.files()["data_batch_1.bin"]
    layout = source.pack_members(tmp_path, [(tarfile.TarInfo(name), content)] * 2)
    with pytest.raises(UserError, match=r"data_batch_1\.bin is in it twice"):
        load_layout(config(tmp_path), layout)


def test_other_members_are_passed_over_and_never_written(tmp_path: Path, source: Source) -> None:
    files = source.files() | {"../../escaped": b"x", "readme.html": b"x"}
    (tmp_path / "a" / "b").mkdir(parents=True)
    layout = source.pack(tmp_path / "a" / "b", files=files)
    source.assert_read(load_layout(config(tmp_path / "a" / "b"), layout))
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "b", "cifar-10-binary.tar.gz"]


def test_a_truncated_archive_is_named_even_if_its_checksum_fits(tmp_path: Path, source: Source) -> None:
    layout = source.pack(tmp_path)
    path = tmp_path / layout.archive.filename
    path.write_bytes(path.read_bytes()[:5000])
    layout = replace(layout, archive=replace(layout.archive, md5=hashlib.md5(path.read_bytes()).hexdigest()))
    with pytest.raises(UserError, match=r"cifar-10-binary\.tar\.gz: is not a whole tar\.gz archive"):
        load_layout(config(tmp_path), layout)
