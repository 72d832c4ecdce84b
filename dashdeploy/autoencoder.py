"""Autoencoders of latent diffusion models, from a diffusers folder: images to latents and back.

Latents are as a pipeline's network takes them, ``(z − shift_factor)·scaling_factor``, and images are in [−1, 1].
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderDC, AutoencoderKL, AutoencoderTiny
from diffusers.utils import logging
from torch import nn

from dashdeploy import stages
from dashdeploy.errors import UserError, reading, writing
from dashdeploy.recipe.paths import VAE
from dashdeploy.weights_file import SUFFIXES, VARIANTS, names_of, require_finite

FOLDER = VAE
CLASSES: dict[str, Any] = {c.__name__: c for c in (AutoencoderKL, AutoencoderTiny, AutoencoderDC)}
WEIGHTS = (".safetensors", ".bin")
DECODED_AT_ONCE = 8
"""Images, where nobody says otherwise: a decoder needs hundreds of megabytes for each of 256 pixels."""

Shape = tuple[int, int, int]


class Autoencoder(nn.Module):
    """An autoencoder in eval mode and float32, without gradients.

    Args:
        inner: of CLASSES.
        source: what messages call it, such as ``data.vae path``.

    Attributes:
        dtype: that the decoder computes in; another than float32 only in copies for export.
    """

    def __init__(self, inner: Any, *, source: str) -> None:
        super().__init__()
        self.inner: Any = inner.eval().requires_grad_(False)
        self.source = source
        self.scale = float(inner.config.scaling_factor)
        self.dtype = torch.float32
        self.shift = float(getattr(inner.config, "shift_factor", None) or 0.0)

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, C, H, W) float32 in [−1, 1] -> latents (B, c, h, w) float32.

        Of AutoencoderKL the mean of the encoder's distribution and not a sample, so that a latent is a function of its
        image.
        """
        encoded = self.inner.encode(images)
        if isinstance(self.inner, AutoencoderKL):
            latents = encoded.latent_dist.mode()
        else:
            latents = encoded.latents if isinstance(self.inner, AutoencoderTiny) else encoded.latent
        return (latents.float() - self.shift) * self.scale

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents (B, c, h, w) float32 -> images (B, C, H, W) float32, not yet clipped to [−1, 1]."""
        z = (latents / self.scale + self.shift).to(self.dtype)
        images: torch.Tensor = self.inner.decode(z, return_dict=False)[0]
        return images

    @torch.no_grad()
    def decode(self, latents: torch.Tensor, *, at_once: int = DECODED_AT_ONCE) -> torch.Tensor:
        """Images in [−1, 1] of latents on the autoencoder's device, `at_once` at a time; NaN and Inf stay."""
        return torch.cat([finite_clip(self(part)) for part in latents.split(at_once)])

    def latent_shape(self, image_shape: Shape) -> Shape:
        """(c, h, w) of the latents of images (C, H, W).

        Raises:
            UserError: the images have other channels, or sides that its stride does not divide.
        """
        self._require(image_shape[0], "in_channels", "images")
        shape = self._on_meta(image_shape, decode=False)
        back = self._on_meta(shape, decode=True) if shape is not None else None
        if shape is None or back is None or back[1:] != image_shape[1:]:
            raise UserError(
                f"{self.source}: it does not give images of {image_shape[1]}×{image_shape[2]} pixels back in their "
                "size. Set data.image_size to a multiple of its stride."
            )
        return shape

    def image_shape(self, latent_shape: Shape) -> Shape:
        """(C, H, W) of the images that latents (c, h, w) decode to.

        Raises:
            UserError: the latents have other channels, or the images are neither grey nor RGB.
        """
        self._require(latent_shape[0], "latent_channels", "latents")
        shape = self._on_meta(latent_shape, decode=True)
        if shape is None or shape[0] not in (1, 3):
            raise UserError(f"{self.source}: it decodes latents {latent_shape} (C, H, W) to no grey or RGB images.")
        return shape

    def _require(self, channels: int, key: str, what: str) -> None:
        own = self.inner.config[key]
        if own != channels:
            raise UserError(
                f"{self.source}: its {what} have {own} channels, and these have {channels}. Take the autoencoder that "
                "belongs to the model and the data."
            )

    def _on_meta(self, shape: Shape, *, decode: bool) -> Shape | None:
        """The shape that comes out, worked out without memory for values; None: it does not take such."""
        with torch.device("meta"), torch.no_grad(), _quiet():
            twin = Autoencoder(type(self.inner).from_config(self.inner.config), source=self.source)
            try:
                out = (twin if decode else twin.encode)(torch.zeros(1, *shape))
            except (RuntimeError, ValueError):
                return None
        _, channels, height, width = out.shape
        return channels, height, width

    def save(self, folder: Path) -> None:
        """Write it as diffusers does: ``config.json`` and one safetensors file."""
        with writing(folder):
            self.inner.save_pretrained(folder, safe_serialization=True)


def finite_clip(images: torch.Tensor) -> torch.Tensor:
    """Images in [−1, 1]; NaN and Inf stay, so that a caller can tell. Traced by the export of the decoder."""
    return torch.where(images.abs() <= torch.finfo(images.dtype).max, images.clamp(-1, 1), images)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without diffusers' warnings: AutoencoderTiny saves keys that its class does not take."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def is_there(folder: Path) -> bool:
    """Whether a pipeline or model folder has an autoencoder in it."""
    return (folder / FOLDER / "config.json").is_file()


def class_of(folder: Path) -> str:
    """The class of the autoencoder in a folder that was opened before."""
    return str(AutoencoderKL.load_config(folder, local_files_only=True)["_class_name"])


def sha256(folder: Path) -> str:
    """An autoencoder's hash: over its configuration and weights.

    Raises:
        UserError: it has none.
    """
    return stages.folder_sha256(folder, keep=lambda path: path.suffix in WEIGHTS or path.name == "config.json")


def _variant(folder: Path) -> str | None:
    """The variant under whose names diffusers has saved the weights; None: under the plain ones, or none is there."""
    for variant in VARIANTS:
        if any((folder / name).is_file() for suffix in SUFFIXES for name in names_of(variant, suffix)):
            return variant or None
    return None


def open_autoencoder(folder: Path, *, source: str) -> Autoencoder:
    """Open an AutoencoderKL, AutoencoderTiny or AutoencoderDC; of weights in fp16 or bf16 alone, those.

    Args:
        source: what messages call it; the folder's path belongs into it.

    Raises:
        UserError: none there, of another class, damaged, or with weights that are not finite.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{source}: it has no config.json. Expected the folder of an autoencoder in diffusers format.")
    with reading(path, "configuration of an autoencoder in JSON"):
        config = AutoencoderKL.load_config(folder, local_files_only=True)
    name = config.get("_class_name") if isinstance(config, dict) else None
    if name not in CLASSES:
        raise UserError(f"{source}: it is a {name or 'file of another kind'}; supported: {', '.join(CLASSES)}")
    if config.get("latents_mean") is not None or config.get("latents_std") is not None:
        raise UserError(
            f"{source}: it has latents_mean and latents_std, which no class-conditional pipeline of diffusers applies. "
            "Encode the data yourself, and give them as data.name latents."
        )
    inner: Any
    try:
        with _quiet():
            inner, told = CLASSES[name].from_pretrained(
                folder,
                local_files_only=True,
                torch_dtype=torch.float32,
                low_cpu_mem_usage=False,
                variant=_variant(folder),
                output_loading_info=True,
            )
    except Exception as error:  # diffusers raises of any kind
        detail = " ".join(str(error).split())[:200]
        raise UserError(f"{source}: not a whole {name} with its weights ({detail})") from error
    # diffusers fills what is missing with random numbers.
    if odd := [*told["missing_keys"], *told["unexpected_keys"], *told["mismatched_keys"]]:
        raise UserError(
            f"{source}: weights and config.json do not fit together: {len(odd)} tensors are missing, of other shapes "
            f"or not its own, such as {odd[0]}"
        )
    require_finite(inner.state_dict(), source=source, advice="Take other weights.")
    if not inner.config.scaling_factor or not inner.config.scaling_factor > 0:
        raise UserError(f"{source}: scaling_factor is {inner.config.scaling_factor}; expected a number above 0")
    return Autoencoder(inner, source=source)
