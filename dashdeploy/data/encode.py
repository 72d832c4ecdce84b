"""Images encoded once by a diffusers AutoencoderKL; the latents are kept in the cache folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL

from dashdeploy import locate, stages
from dashdeploy.data import latents
from dashdeploy.data.images import LabelledImages, to_float
from dashdeploy.errors import UserError
from dashdeploy.recipe.schema import Data
from dashdeploy.terminal import say

BATCH = 32


def encoded(images: LabelledImages, vae: Path) -> LabelledImages:
    """The images' latents (N, C, S, S) float32: the encoder's mean, shifted and scaled as by diffusers' pipelines.

    It is the mean and not a sample, so that a latent is a function of its image. The latents are kept in
    <cache>/latents/<hash>.npz, and read from there for the same images and autoencoder; a damaged file is made again.

    Raises:
        UserError: the folder holds no autoencoder, or one for images of other channels.
    """
    config = vae / "config.json"
    if not config.is_file():
        raise UserError(f"data.vae {vae}: it has no config.json; expected the folder of a diffusers AutoencoderKL")
    weights = sorted(path for path in vae.iterdir() if path.suffix in (".safetensors", ".json"))
    key = stages.digest({"images": images.sha256, "vae": {path.name: stages.file_sha256(path) for path in weights}})
    path = locate.cache_folder() / "latents" / f"{key}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    with stages.in_turn(path.with_suffix(".lock"), what="the latents"):
        if not (path.is_file() and stages.undamaged(path)):
            encoding = encode(images, _open(vae, channels=images.image_shape[0]))
            if not np.isfinite(encoding).all():
                raise UserError(f"data.vae {vae}: its latents of these images are not all finite. Take other weights.")
            with stages.replacing(path) as part, part.open("wb") as file:
                np.savez(file, latents=encoding, labels=images.labels, classes=np.array(images.classes))
            say(f"encoded {len(images)} images by {vae}; the latents are kept in {path}")
    return latents.load(Data(name="latents", path=str(path)))


@torch.no_grad()
def encode(images: LabelledImages, autoencoder: Any) -> np.ndarray[Any, np.dtype[np.float32]]:
    """(N, C, S, S) float32: (mean − shift)·scale."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    autoencoder = autoencoder.to(device)
    shift = getattr(autoencoder.config, "shift_factor", None) or 0.0
    scale = autoencoder.config.scaling_factor
    parts = []
    for start in range(0, len(images), BATCH):
        x = torch.from_numpy(to_float(images.images[start : start + BATCH])).to(device)
        mean = autoencoder.encode(x).latent_dist.mode()
        parts.append(((mean - shift) * scale).float().cpu().numpy())
    return np.concatenate(parts)


def _open(vae: Path, *, channels: int) -> Any:
    try:
        autoencoder: Any = AutoencoderKL.from_pretrained(vae, local_files_only=True, use_safetensors=True)
    except Exception as error:  # diffusers raises of any kind
        detail = " ".join(str(error).split())[:200]
        raise UserError(f"data.vae {vae}: not an AutoencoderKL with safetensors weights ({detail})") from error
    if autoencoder.config.in_channels != channels:
        raise UserError(
            f"data.vae {vae}: it encodes {autoencoder.config.in_channels} channels, and the images have {channels}"
        )
    return autoencoder.eval()
