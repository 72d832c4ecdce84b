"""Images encoded once by an autoencoder, and latents decoded; what is made is kept in the cache folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dashdeploy import locate, stages
from dashdeploy.autoencoder import Autoencoder, open_autoencoder, sha256
from dashdeploy.data import latents
from dashdeploy.data.images import LabelledImages, to_float
from dashdeploy.diffusion.pixels import to_uint8
from dashdeploy.errors import UserError
from dashdeploy.locate import expanded
from dashdeploy.progress import progress
from dashdeploy.recipe.schema import Data
from dashdeploy.terminal import say

BATCH = 32


def encoded(images: LabelledImages, vae: Path) -> LabelledImages:
    """The images' latents (N, C, S, S) float32, see `Autoencoder.encode`; where the images may be mirrored, those of
    the mirrored ones too: a mirrored image's latent is not the mirrored latent.

    The latents are kept in <cache>/latents/<hash>.npz, and read from there for the same images and autoencoder; a
    damaged file is made again. The hash is their `identity`: the latents' own last bits are others on another machine.

    Raises:
        UserError: the folder holds no autoencoder, or one for other images.
    """
    known = {"images": images.sha256, "vae": sha256_of(vae), "mirrored": images.horizontal_flip}
    identity = stages.digest(known)
    path = locate.cache_folder() / "latents" / f"{identity}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    with stages.in_turn(path.with_suffix(".lock"), what="the latents"):
        if not (path.is_file() and stages.undamaged(path)):
            _encode_into(path, images, vae)
    return replace(latents.load(Data(name="latents", path=str(path))), identity=identity)


def _encode_into(path: Path, images: LabelledImages, vae: Path) -> None:
    autoencoder = open_vae(vae)
    autoencoder.latent_shape(images.image_shape)
    kinds = {"latents": images.images, latents.MIRRORED: images.images[..., ::-1]}
    wanted = kinds if images.horizontal_flip else {"latents": images.images}
    with progress("encoding images", total=len(wanted) * len(images)) as advance:
        arrays = {name: encode(pixels, autoencoder, on_images=advance) for name, pixels in wanted.items()}
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise UserError(f"data.vae {vae}: its latents of these images are not all finite. Take other weights.")
    with stages.replacing(path) as part, part.open("wb") as file:
        held: dict[str, Any] = {"labels": images.labels, "classes": np.array(images.classes), **arrays}
        np.savez(file, **held)
    say(f"encoded {len(images)} images by {vae}; the latents are kept in {path}")


def decoded(held: LabelledImages, vae: Path) -> LabelledImages:
    """What latents decode to, as images (N, C, H, W) uint8 with the autoencoder's loss.

    Raises:
        UserError: the folder holds no autoencoder, or one for other latents.
    """
    autoencoder = open_vae(vae)
    autoencoder.image_shape(held.image_shape)
    with progress("decoding latents", total=len(held)) as advance:
        images = decode(held.images, autoencoder, on_images=advance)
    return _as_images(held, images)


def like_decoded(held: LabelledImages, vae: Path) -> LabelledImages:
    """What stands in for `decoded` where nobody looks at pixels: the labels and classes, and for every image one and
    the same, which takes no memory. (N, C, H, W) uint8.

    Raises:
        UserError: see `decoded`.
    """
    one = decoded(held.take(np.arange(1)), vae).images
    return _as_images(held, np.broadcast_to(one, (len(held), *one.shape[1:])))


def _as_images(held: LabelledImages, images: NDArray[np.uint8]) -> LabelledImages:
    return replace(held, images=images, are_latents=False, mirrored=None, horizontal_flip=False, identity=None)


def autoencoder_of(config: Data, data: LabelledImages) -> Autoencoder | None:
    """The autoencoder that decodes what a recipe's networks make, which goes with them; None: they make images.

    Raises:
        UserError: the folder holds no autoencoder, or one for other latents.
    """
    if config.vae is None:
        return None
    found = open_vae(expanded(config.vae))
    found.image_shape(data.image_shape)
    return found


def vae_sha256(config: Data) -> str | None:
    """The hash of a recipe's autoencoder; None: it has none."""
    return None if config.vae is None else sha256_of(expanded(config.vae))


def sha256_of(vae: Path) -> str:
    """The hash of data.vae.

    Raises:
        UserError: there is no such folder, or no autoencoder in it.
    """
    _refuse_missing(vae)
    return sha256(vae)


def open_vae(vae: Path) -> Autoencoder:
    """The autoencoder in the folder data.vae.

    Raises:
        UserError: there is no such folder, or no autoencoder in it.
    """
    _refuse_missing(vae)
    return open_autoencoder(vae, source=f"data.vae {vae}")


def _refuse_missing(vae: Path) -> None:
    if not vae.is_dir():
        raise UserError(f"data.vae {vae}: no such folder. Expected that of an autoencoder in diffusers format.")


def encode(
    pixels: NDArray[np.uint8], autoencoder: Autoencoder, *, on_images: Callable[[int], object] = lambda n: None
) -> NDArray[np.float32]:
    """(N, C, H, W) uint8 -> latents (N, c, h, w) float32; on_images: called with the number of further images."""

    def one(part: NDArray[Any]) -> torch.Tensor:
        return autoencoder.encode(torch.from_numpy(to_float(part)).to(_device()))

    return _in_batches(pixels, autoencoder, one, on_images)


def decode(
    held: NDArray[Any], autoencoder: Autoencoder, *, on_images: Callable[[int], object] = lambda n: None
) -> NDArray[np.uint8]:
    """Latents (N, c, h, w) -> images (N, C, H, W) uint8: the inverse of `encode`, with the autoencoder's loss."""

    def one(part: NDArray[Any]) -> torch.Tensor:
        images = autoencoder.decode(torch.from_numpy(to_float(part)).to(_device()))
        return to_uint8(images)

    return _in_batches(held, autoencoder, one, on_images)


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


@torch.no_grad()
def _in_batches(
    held: NDArray[Any],
    autoencoder: Autoencoder,
    one: Callable[[NDArray[Any]], torch.Tensor],
    on_images: Callable[[int], object],
) -> Any:
    autoencoder.to(_device())
    out: NDArray[Any] | None = None
    for start in range(0, len(held), BATCH):
        part = one(np.ascontiguousarray(held[start : start + BATCH])).cpu().numpy()
        if out is None:  # the parts and their concatenation would be the set twice
            out = np.empty((len(held), *part.shape[1:]), part.dtype)
        out[start : start + len(part)] = part
        on_images(len(part))
    return out
