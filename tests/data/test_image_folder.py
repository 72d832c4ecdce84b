"""A folder of images: classes, channels, crops, and that what cannot be used is named."""

from __future__ import annotations

import io
import os
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dashdeploy.data import load_dataset
from dashdeploy.errors import UserError
from dashdeploy.recipe.schema import Data


def save(path: Path, mode: str = "RGB", *, size: tuple[int, int] = (8, 8), seed: int = 0) -> np.ndarray:
    """Write a random image; returns its pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], 3)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    return pixels


def config(folder: Path, image_size: int | None = None) -> Data:
    return Data(name="image_folder", path=str(folder), image_size=image_size)


def refused(folder: Path, message: str, *, names: Path | None = None, image_size: int | None = None) -> None:
    """Loading must fail by one line that matches, and names the path."""
    with pytest.raises(UserError, match=message) as caught:
        load_dataset(config(folder, image_size))
    assert "\n" not in str(caught.value)
    if names is not None:
        assert str(names) in str(caught.value)


def test_classes_and_files_come_in_the_order_of_their_names(tmp_path: Path) -> None:
    dog = save(tmp_path / "dog" / "1.png", seed=1)
    cat_b = save(tmp_path / "cat" / "b.png", seed=2)
    cat_a = save(tmp_path / "cat" / "a.bmp", seed=3)
    data = load_dataset(config(tmp_path))
    assert data.classes == ("cat", "dog")
    assert data.labels.tolist() == [0, 0, 1]
    np.testing.assert_array_equal(data.images.transpose(0, 2, 3, 1), [cat_a, cat_b, dog])
    assert not data.horizontal_flip


def test_every_suffix_is_read_in_any_case(tmp_path: Path) -> None:
    for name in ("a.png", "b.jpg", "c.JPEG", "d.webp", "e.bmp", "f.PNG"):
        save(tmp_path / "k" / name)
    assert len(load_dataset(config(tmp_path))) == 6


def test_hidden_files_other_suffixes_and_nested_folders_are_skipped(tmp_path: Path) -> None:
    save(tmp_path / "k" / "a.png")
    save(tmp_path / "k" / "nested" / "b.png")
    save(tmp_path / ".hidden" / "a.png")
    (tmp_path / "k" / "._a.png").write_bytes(b"resource fork")
    (tmp_path / "k" / "notes.txt").write_text("x")
    (tmp_path / "readme.md").write_text("x")
    data = load_dataset(config(tmp_path))
    assert (len(data), data.classes) == (1, ("k",))


def test_all_grey_images_keep_one_channel(tmp_path: Path) -> None:
    grey = save(tmp_path / "k" / "a.png", "L")
    save(tmp_path / "k" / "b.png", "L", seed=1)
    data = load_dataset(config(tmp_path))
    assert data.images.shape == (2, 1, 8, 8)
    np.testing.assert_array_equal(data.images[0, 0], grey)


def test_one_colour_image_makes_all_rgb(tmp_path: Path) -> None:
    grey = save(tmp_path / "k" / "a.png", "L")
    colour = save(tmp_path / "k" / "b.png", "RGB")
    data = load_dataset(config(tmp_path))
    np.testing.assert_array_equal(data.images[0], [grey] * 3)
    np.testing.assert_array_equal(data.images[1].transpose(1, 2, 0), colour)


def test_palette_images_become_rgb(tmp_path: Path) -> None:
    path = tmp_path / "k" / "a.png"
    save(path, "P")
    with Image.open(path) as stored:
        assert stored.mode == "P"
    assert load_dataset(config(tmp_path)).image_shape == (3, 8, 8)


@pytest.mark.parametrize("size", [(24, 8), (8, 24)])
def test_the_central_square_is_kept(tmp_path: Path, size: tuple[int, int]) -> None:
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    top, left = (size[1] - 8) // 2, (size[0] - 8) // 2
    pixels[top : top + 8, left : left + 8] = 200
    (tmp_path / "k").mkdir()
    Image.fromarray(pixels).save(tmp_path / "k" / "a.png")
    data = load_dataset(config(tmp_path, image_size=8))
    assert data.images.shape == (1, 3, 8, 8)
    assert (data.images == 200).all()


def test_shrinking_averages_and_does_not_skip_pixels(tmp_path: Path) -> None:
    # A checkerboard of single pixels is grey when it is averaged, and black or white where pixels are picked.
    board = (np.indices((32, 32)).sum(0) % 2 * 255).astype(np.uint8)
    (tmp_path / "k").mkdir()
    Image.fromarray(board).save(tmp_path / "k" / "a.png")
    shrunk = load_dataset(config(tmp_path, image_size=4)).images
    assert abs(shrunk.astype(int) - 127.5).max() < 4  # the filter is not an exact mean at the border


def test_images_are_turned_upright_by_their_exif_orientation(tmp_path: Path) -> None:
    path = tmp_path / "k" / "a.png"
    pixels = save(path)
    exif = Image.Exif()
    exif[0x0112] = 6  # the top of the scene is at the right: turn clockwise by 90°
    Image.fromarray(pixels).save(path, exif=exif)
    upright = load_dataset(config(tmp_path)).images[0].transpose(1, 2, 0)
    np.testing.assert_array_equal(upright, np.rot90(pixels, -1))


def test_unequal_sizes_need_image_size(tmp_path: Path) -> None:
    save(tmp_path / "k" / "a.png")
    odd = tmp_path / "k" / "b.png"
    save(odd, size=(16, 16))
    refused(tmp_path, r"is 16×16, expected 8×8 .*set data\.image_size", names=odd)
    assert load_dataset(config(tmp_path, image_size=8)).images.shape == (2, 3, 8, 8)


def test_a_rectangle_needs_image_size(tmp_path: Path) -> None:
    save(tmp_path / "k" / "a.png", size=(8, 9))
    refused(tmp_path, r"is 8×9, expected a square; set data\.image_size", names=tmp_path / "k" / "a.png")


@pytest.mark.parametrize("kept", [0, 20, 0.5])
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp"])
def test_a_broken_image_is_named(tmp_path: Path, suffix: str, kept: float) -> None:
    save(tmp_path / "k" / "a.png", size=(32, 32))
    broken = tmp_path / "k" / f"b.{suffix}"
    save(broken, size=(32, 32), seed=1)
    whole = broken.read_bytes()
    broken.write_bytes(whole[: int(kept * len(whole)) if kept < 1 else int(kept)])
    refused(tmp_path, "cannot be read as an image", names=broken)


def test_only_the_formats_of_the_suffixes_are_decoded(tmp_path: Path) -> None:
    (tmp_path / "k").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "k" / "a.png", format="GIF")
    refused(tmp_path, "cannot be read as an image", names=tmp_path / "k" / "a.png")


def test_transparent_pixels_are_refused_and_an_opaque_alpha_is_not(tmp_path: Path) -> None:
    (tmp_path / "k").mkdir()
    path = tmp_path / "k" / "a.png"
    image = Image.new("RGBA", (8, 8), (10, 20, 30, 255))
    image.save(path)
    assert load_dataset(config(tmp_path)).images[0, :, 0, 0].tolist() == [10, 20, 30]
    image.putpixel((3, 3), (10, 20, 30, 0))
    image.save(path)
    refused(tmp_path, "transparent pixels", names=path)


def test_sixteen_bit_grey_is_refused(tmp_path: Path) -> None:
    (tmp_path / "k").mkdir()
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(tmp_path / "k" / "a.png")
    refused(tmp_path, "8 bits a channel", names=tmp_path / "k" / "a.png")


@pytest.mark.parametrize("limit", [200, 100])
def test_an_image_over_pillows_pixel_limit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    # 256 pixels: Pillow itself only warns up to twice its limit.
    save(tmp_path / "k" / "a.png", size=(16, 16))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    refused(tmp_path, "more pixels than Pillow's limit", names=tmp_path / "k" / "a.png")


def test_a_header_that_claims_a_huge_image_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "k" / "a.bmp"
    save(path)
    bomb = bytearray(path.read_bytes())
    bomb[18:26] = (50_000).to_bytes(4, "little") * 2  # biWidth, biHeight
    path.write_bytes(bytes(bomb))
    assert Image.MAX_IMAGE_PIXELS is not None and 2 * Image.MAX_IMAGE_PIXELS < 50_000**2
    refused(tmp_path, "more pixels than Pillow's limit", names=path, image_size=8)


def test_no_path_says_what_to_set() -> None:
    with pytest.raises(UserError, match=r"set data\.path"):
        load_dataset(Data(name="image_folder"))


def test_a_missing_folder_or_a_file_is_named(tmp_path: Path) -> None:
    refused(tmp_path / "absent", "No such file", names=tmp_path / "absent")
    (tmp_path / "file").write_bytes(b"")
    refused(tmp_path / "file", "Not a directory", names=tmp_path / "file")


def test_images_without_class_folders_say_the_layout(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    refused(tmp_path, re.escape("has no subfolders; expected <class name>/<image>"), names=tmp_path)


def test_an_empty_class_is_named_with_the_suffixes(tmp_path: Path) -> None:
    save(tmp_path / "cat" / "a.png")
    (tmp_path / "dog").mkdir()
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, format="GIF")
    (tmp_path / "dog" / "a.gif").write_bytes(buffer.getvalue())
    refused(tmp_path, r"has no images; expected files that end in \.png, \.jpg", names=tmp_path / "dog")


def test_links_that_lead_nowhere_stop_it_and_are_counted(tmp_path: Path) -> None:
    save(tmp_path / "a" / "1.png")
    save(tmp_path / "b" / "1.png")
    for name in ("2.png", "3.png"):
        (tmp_path / "a" / name).symlink_to(f"/not/mounted/{name}")
    refused(tmp_path, r"2\.png: a link to /not/mounted/2\.png, which is not there .2 of 3", names=tmp_path / "a")
    for name in ("2.png", "3.png"):
        (tmp_path / "a" / name).unlink()
    (tmp_path / "c").symlink_to("/not/mounted/c")
    refused(
        tmp_path, r"a link to /not/mounted/c, which is not there .1 of 3.*Is a drive not mounted", names=tmp_path / "c"
    )


def test_links_to_images_and_classes_elsewhere_are_followed(tmp_path: Path) -> None:
    save(tmp_path / "elsewhere" / "1.png")
    (tmp_path / "data" / "a").mkdir(parents=True)
    (tmp_path / "data" / "a" / "1.png").symlink_to(tmp_path / "elsewhere" / "1.png")
    (tmp_path / "data" / "b").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    data = load_dataset(config(tmp_path / "data"))
    assert (data.classes, data.labels.tolist()) == (("a", "b"), [0, 1])
    np.testing.assert_array_equal(data.images[0], data.images[1])


def test_all_images_that_cannot_be_used_are_counted(tmp_path: Path) -> None:
    for number in range(4):
        save(tmp_path / "k" / f"{number}.png", seed=number)
    (tmp_path / "k" / "1.png").write_bytes(b"")
    whole = (tmp_path / "k" / "2.png").read_bytes()
    (tmp_path / "k" / "2.png").write_bytes(whole[: len(whole) // 2])
    refused(tmp_path, r"1\.png: cannot be read as an image", names=tmp_path / "k" / "1.png")
    (tmp_path / "k" / "3.png").write_bytes(b"not an image")
    refused(tmp_path, r"1\.png: .*2 of 4 images cannot be used")


@pytest.mark.parametrize("name", [b"a\x1b[31mb", b"new\nline", b"\xff\xfe", b"x" * 255, "\u202etxt".encode()])
def test_a_class_of_an_odd_name_can_be_shown_and_written(tmp_path: Path, name: bytes) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
    save(folder / "1.png")
    (shown,) = load_dataset(config(tmp_path)).classes
    assert shown.isprintable() and shown.encode("utf-8")
    (folder / "2.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"cannot be read as an image"):
        load_dataset(config(tmp_path))


def test_what_training_sees_is_in_the_hash(tmp_path: Path) -> None:
    for k, name in enumerate(("a", "b")):
        for number in range(2):
            save(tmp_path / name / f"{number}.png", seed=2 * k + number)
    seen = [load_dataset(config(tmp_path)).sha256]
    save(tmp_path / "a" / "2.png", seed=9)
    seen.append(load_dataset(config(tmp_path)).sha256)
    (tmp_path / "a" / "2.png").rename(tmp_path / "b" / "2.png")
    seen.append(load_dataset(config(tmp_path)).sha256)
    (tmp_path / "a").rename(tmp_path / "z")  # the same images under other labels
    seen.append(load_dataset(config(tmp_path)).sha256)
    assert len(set(seen)) == len(seen)
    (tmp_path / "z").rename(tmp_path / "a")
    (tmp_path / "b" / "2.png").unlink()
    assert load_dataset(config(tmp_path)).sha256 == seen[0]


@pytest.mark.parametrize("holdout", [0, 0.1, 0.6])
def test_one_image_and_one_image_a_class(tmp_path: Path, holdout: float) -> None:
    save(tmp_path / "a" / "1.png")
    one = load_dataset(config(tmp_path))
    if holdout:
        with pytest.raises(UserError, match="holds out all 1 images and leaves none to train on"):
            one.split(holdout)
    else:
        assert [len(part) for part in one.split(holdout)] == [1, 1]
    save(tmp_path / "b" / "1.png", seed=1)
    trained, held_out = load_dataset(config(tmp_path)).split(holdout)
    assert len(trained) and len(held_out)


def test_what_looks_like_images_and_is_not_read_is_told_of(tmp_path: Path) -> None:
    for label in "ab":
        save(tmp_path / label / "0.png")
    (tmp_path / "a" / "notes.txt").write_text("no image")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_dataset(config(tmp_path))
    save(tmp_path / "a" / "1.tiff")
    save(tmp_path / "a" / "more" / "2.png")
    with pytest.warns(UserWarning, match=r"a: 1 images are read; not read: 1\.tiff and 1 more\. Images are"):
        assert len(load_dataset(config(tmp_path))) == 2
