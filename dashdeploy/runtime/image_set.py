"""A set of images in one file, as papers keep them for FID: .npz in the layout of ADM's evaluation suite."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from dashdeploy import ranks
from dashdeploy.diffusion.pixels import to_uint8
from dashdeploy.diffusion.sampling import Plan, draw
from dashdeploy.errors import writing
from dashdeploy.files import replacing
from dashdeploy.runtime.model import Model

IMAGES, LABELS = "arr_0", "arr_1"
"""Names of the arrays: (N, H, W, C) uint8, and (N,) int64."""
HELD = 1 << 24
"""Bytes that are copied at a time."""


def write(
    model: Model,
    run: Plan,
    labels: torch.Tensor,
    path: Path,
    *,
    seed: int,
    batch_size: int,
    on_images: Callable[[int], None] | None = None,
) -> None:
    """Draw an image of each label (N,) and write all of them to `path`; of several processes each draws a part.

    Image i depends on the seed, i and its label: the file is the same, however many processes there are, as far as
    their arithmetic is. Memory holds a batch of it.

    Args:
        path: it ends in .npz. Drafts of it lie beside it meanwhile; processes on several machines share that folder.
        on_images: called with the number of images that this process has drawn more.

    Raises:
        UserError: the model makes latents, a step is not finite, or the file cannot be written.
    """
    interface, here = model.denoiser.interface, ranks.state()
    interface.check_images()
    interface.check_labels(labels)
    parts = [path.with_name(f".{path.name}.{rank}.part") for rank in range(here.num_processes)]
    own = share(len(labels))
    channels, height, width = interface.drawn_shape
    mine = parts[here.process_index]
    try:
        with writing(path, named=True), mine.open("wb") as file:
            if own:
                drawn = draw(
                    model.sample,
                    interface,
                    run,
                    labels=labels[own.start : own.stop],
                    seed=seed,
                    batch_size=batch_size,
                    first=own.start,
                    device=model.device,
                )
                for batch in drawn:
                    file.write(to_uint8(batch).cpu().permute(0, 2, 3, 1).contiguous().numpy().tobytes())
                    if on_images is not None:
                        on_images(len(batch))
        ranks.together()
        ranks.in_main(lambda: _join(parts, path, (len(labels), height, width, channels), labels.numpy()))
    finally:
        mine.unlink(missing_ok=True)


def _join(parts: Sequence[Path], path: Path, shape: tuple[int, ...], labels: NDArray[np.int64]) -> None:
    with writing(path, named=True), replacing(path.resolve()) as draft, zipfile.ZipFile(draft, "w") as archive:
        # With the date of ZipInfo, 1980: the same images make the same file.
        with archive.open(zipfile.ZipInfo(f"{IMAGES}.npy"), "w", force_zip64=True) as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for part in parts:
                with part.open("rb") as images:
                    shutil.copyfileobj(images, file, HELD)
        with archive.open(zipfile.ZipInfo(f"{LABELS}.npy"), "w") as file:
            np.lib.format.write_array(file, labels)


def share(num_images: int) -> range:
    """Numbers of the images that this process draws."""
    here = ranks.state()
    bounds = [num_images * rank // here.num_processes for rank in (here.process_index, here.process_index + 1)]
    return range(*bounds)


def in_turn(classes: Sequence[int], num: int) -> torch.Tensor:
    """(num,) int64 labels: the classes in turn, so that each has as many images as any other, or one more."""
    return torch.tensor(classes, dtype=torch.int64).repeat(-(-num // len(classes)))[:num]
