"""A folder of images, one subfolder for each class: <path>/<class name>/*.{png,jpg,jpeg,webp,bmp}."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from dashdeploy.data.images import LabelledImages, Problems, plain_name
from dashdeploy.errors import UserError, printable
from dashdeploy.locate import expanded
from dashdeploy.recipe.schema import Data

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
EIGHT_BIT_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"})


def load(config: Data) -> LabelledImages:
    """Read labelled images from the folder `config.path`; classes are its subfolders, sorted by name.

    Images are turned upright by their EXIF orientation. With data.image_size each is cropped to its central square and
    resized by Pillow's antialiased bilinear filter; without it all must be squares of one size. If all are 8-bit
    grey, the images have one channel, else three (RGB). Hidden files, other suffixes
    and folders in a class are skipped; a warning says how many of them look like images. horizontal_flip is off: only
    the user knows whether mirrored images keep their class.

    Returns:
        images (N, 1 or 3, S, S) uint8, ordered by class and file name; labels (N,) int64.

    Raises:
        UserError: no path, no classes, a class without images, links that lead nowhere, unequal sizes, or an image that
            is broken, transparent, 16-bit grey or huge; the message names the first file or folder, and how many.
    """
    if config.path is None:
        raise UserError("dataset image_folder: set data.path to a folder with one subfolder of images for each class")
    root = expanded(config.path)
    classes = [path for path in _visible(root, "data.path") if path.is_dir()]
    if not classes:
        raise UserError(f"{root}: has no subfolders; expected <class name>/<image> in it")
    files, labels = [], []
    for label, folder in enumerate(classes):
        images = [path for path in _visible(folder, "class folder", SUFFIXES) if path.is_file()]
        if not images:
            raise UserError(f"{folder}: has no images; expected files that end in {', '.join(SUFFIXES)}")
        _tell_left_out(folder, set(images))
        files += images
        labels += [label] * len(images)
    channels, size = _survey(files, config.image_size)
    pixels = np.empty((len(files), channels, size, size), np.uint8)
    problems = Problems(len(files), "images")
    for row, path in enumerate(files):
        with problems.noted():
            pixels[row] = _decode(path, size, grey=channels == 1)
    problems.report()
    return LabelledImages(
        name="image_folder",
        images=pixels,
        labels=np.array(labels, np.int64),
        classes=tuple(plain_name(folder.name) for folder in classes),
        horizontal_flip=False,
    )


def _visible(folder: Path, role: str, suffixes: tuple[str, ...] = ("",)) -> list[Path]:
    """What is in the folder, ends in one of the suffixes and is not hidden, sorted by name."""
    try:
        entries = sorted(folder.iterdir(), key=lambda path: path.name)
    except OSError as error:
        raise UserError(f"{folder}: cannot be listed as {role} ({error.strerror}); expected a folder") from error
    found = [p for p in entries if p.name.lower().endswith(suffixes) and not p.name.startswith(".")]
    if lost := [path for path in found if not path.exists()]:
        raise UserError(
            f"{lost[0]}: a link to {os.readlink(lost[0])}, which is not there ({len(lost)} of {len(found)} in this "
            "folder). Is a drive not mounted? Bring it back, or remove the links."
        )
    return found


def _tell_left_out(folder: Path, taken: set[Path]) -> None:
    """Warn of what in a class's folder looks like images and is not read: a class may be smaller than one thinks."""
    known = {*Image.registered_extensions(), ".heic", ".heif"}
    left = [p for p in _visible(folder, "class folder") if p not in taken and (p.suffix.lower() in known or p.is_dir())]
    if left:
        more = f" and {len(left) - 1} more" if len(left) > 1 else ""
        warnings.warn(
            f"{folder}: {len(taken)} images are read; not read: {printable(left[0].name)}{more}. Images "
            f"are files that end in {', '.join(SUFFIXES)}, and folders in a class are not searched",
            stacklevel=2,
        )


def _survey(files: list[Path], image_size: int | None) -> tuple[int, int]:
    """(channels, side in pixels) of the array to make; only the files' headers are read."""
    grey, size = True, image_size
    problems = Problems(len(files), "images")
    for path in files:
        with problems.noted():
            with _opened(path) as image:
                mode, (width, height) = image.mode, image.size
            if mode not in EIGHT_BIT_MODES:
                raise UserError(f"{path}: its pixels are of mode {mode}; expected 8 bits a channel")
            grey = grey and mode == "L"
            if image_size is None:
                size = size or width
                if width != height or width != size:
                    expected = "a square" if width != height else f"{size}×{size} as the first image"
                    raise UserError(
                        f"{path}: is {width}×{height}, expected {expected}; set data.image_size to crop and resize all"
                    )
    problems.report()
    assert size is not None
    return 1 if grey else 3, size


def _decode(path: Path, size: int, *, grey: bool) -> NDArray[np.uint8]:
    """(C, size, size) uint8: upright, central square, resized."""
    with _opened(path) as image:
        image.load()
        if image.has_transparency_data and _lowest_alpha(image) < 255:
            raise UserError(f"{path}: has transparent pixels; flatten it onto a background first")
        upright = ImageOps.exif_transpose(image).convert("L" if grey else "RGB")
        side = min(upright.size)
        left, top = (upright.width - side) // 2, (upright.height - side) // 2
        square = upright.crop((left, top, left + side, top + side))
        if side != size:
            square = square.resize((size, size), Image.Resampling.BILINEAR)
        pixels = np.asarray(square)
    return pixels[None] if grey else pixels.transpose(2, 0, 1)


def _lowest_alpha(image: Image.Image) -> int:
    return int(np.asarray(image.convert("RGBA").getchannel("A")).min())


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """An image of one of FORMATS; whatever Pillow raises becomes a UserError that names the file."""
    try:
        with warnings.catch_warnings():
            # Up to twice its pixel limit Pillow only warns.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as image:
                yield image
    except UserError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UserError(f"{path}: refused, it has more pixels than Pillow's limit ({error})") from error
    # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and more on damaged files.
    except Exception as error:
        raise UserError(f"{path}: cannot be read as an image ({error})") from error
