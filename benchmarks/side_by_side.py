"""Cut the README's picture out of the picture of four models: three of them, the first classes, with their names.

    python benchmarks/side_by_side.py     # docs/fashion-mnist-16-samples.png → docs/side-by-side.png

No pixel of an image changes: panels are cropped and each pixel is enlarged to a square.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

DOCS = Path(__file__).resolve().parent.parent / "docs"
NAMES: dict[int, str] = {
    0: "Teacher",
    1: "Student, one branch distilled",
    3: "Student, both branches distilled",
}
"""Panel of the source, counted from 0, and what is written above it."""
ROWS, CELL = 5, 32  # classes shown; pixels of an image, which are followed by one of separator
SCALE, GAP, LABEL = 2, 24, 36
WHITE = 255


def panels(picture: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """The panels of a grey picture (H, W), which wholly white columns divide."""
    white = (picture == WHITE).all(axis=0)
    edges = np.flatnonzero(np.diff(np.concatenate(([True], white, [True])).astype(np.int8)))
    return [picture[:, begin:end] for begin, end in zip(edges[::2], edges[1::2], strict=True)]


def side_by_side(picture: NDArray[np.uint8], names: Mapping[int, str] = NAMES, *, rows: int = ROWS) -> Image.Image:
    """The named panels' first rows beside each other, enlarged, under their names."""
    found = panels(picture)
    chosen = [found[index][: rows * (CELL + 1) - 1] for index in names]
    enlarged = [panel.repeat(SCALE, axis=0).repeat(SCALE, axis=1) for panel in chosen]
    height, width = enlarged[0].shape
    canvas = Image.new("L", (len(enlarged) * (width + GAP) - GAP, LABEL + height), WHITE)
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=20)
    for i, (panel, name) in enumerate(zip(enlarged, names.values(), strict=True)):
        left = i * (width + GAP)
        draw.text((left + width / 2, LABEL / 2), name, fill=0, font=font, anchor="mm")
        canvas.paste(Image.fromarray(panel), (left, LABEL))
    return canvas


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Cut the README's picture out of the picture of four models.")
    parser.add_argument("--source", type=Path, default=DOCS / "fashion-mnist-16-samples.png")
    parser.add_argument("--out", type=Path, default=DOCS / "side-by-side.png")
    options = parser.parse_args(arguments)
    with Image.open(options.source) as image:
        picture = np.asarray(image.convert("L"))
    side_by_side(picture).save(options.out, format="PNG", optimize=True)


if __name__ == "__main__":
    main()
