"""What the owner of a latent DiT has: a `DiTPipeline` (here one that nobody trained) and a folder of pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    AutoencoderTiny,
    DDIMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
)
from PIL import Image

CLASSES = ("ant", "bee", "cat")
SIDE, LATENT = 16, (4, 4, 4)

RECIPE = """
name: latent
seed: 1
data: {{name: image_folder, path: {folder}/images, horizontal_flip: true}}
teacher: {{path: {folder}/pipeline, check: false}}
student: {{compression: 1.5}}
distill: {{steps: 3, batch_size: 4, warmup_steps: 1, threads: 1}}
sampling: {{num_inference_steps: 4, clip_sample: false, guidance: 2.0}}
bench:
  latency: {{batch_sizes: [1], warmup: 0, repeats: 3, sampler_repeats: 1, threads: 1}}
  quality: {{num_images: 24, guidance: [1.0, 2.0], features: fit, bootstrap: 0}}
  fidelity: {{num_pairs: 100, bins: 2}}
"""
TARGET = """
name: {name}
description: t
backend: {backend}
graphs: [guided, step]
parity: {{batch_sizes: [1, 3], t_bins: 2}}
"""


def kl(*, channels: int = 3, latent_channels: int = LATENT[0], **more: Any) -> AutoencoderKL:
    """Of stride 4, with attention in the middle."""
    torch.manual_seed(0)
    return AutoencoderKL(
        in_channels=channels,
        out_channels=channels,
        latent_channels=latent_channels,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 8, 16),
        norm_num_groups=4,
        sample_size=SIDE,
        **more,
    )


def tiny() -> AutoencoderTiny:
    """Of stride 4, for the same latents."""
    torch.manual_seed(1)
    return AutoencoderTiny(
        latent_channels=LATENT[0],
        encoder_block_out_channels=(8, 8, 8),
        decoder_block_out_channels=(8, 8, 8),
        num_encoder_blocks=(1, 1, 1),
        num_decoder_blocks=(1, 1, 1),
    )


def dc() -> AutoencoderDC:
    """Of stride 4, for the same latents."""
    torch.manual_seed(2)
    return AutoencoderDC(
        latent_channels=LATENT[0],
        attention_head_dim=8,
        encoder_block_types="ResBlock",
        decoder_block_types="ResBlock",
        encoder_block_out_channels=(8, 16, 16),
        decoder_block_out_channels=(8, 16, 16),
        encoder_layers_per_block=(1, 1, 1),
        decoder_layers_per_block=(1, 1, 1),
        encoder_qkv_multiscales=((), (), ()),
        decoder_qkv_multiscales=((), (), ()),
        scaling_factor=0.41407,
    )


def save_pipeline(folder: Path) -> Path:
    """A whole pipeline in `folder`: transformer, vae, scheduler and class names."""
    torch.manual_seed(3)
    transformer = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=LATENT[0],
        out_channels=2 * LATENT[0],
        num_layers=2,
        sample_size=LATENT[1],
        patch_size=2,
        num_embeds_ada_norm=len(CLASSES),
    )
    scheduler = DDIMScheduler(num_train_timesteps=50, clip_sample=False)
    names = dict(enumerate(CLASSES))
    DiTPipeline(transformer, kl(shift_factor=0.1), scheduler, id2label=names).save_pretrained(folder)
    return folder


def save_images(folder: Path, *, each: int = 10) -> Path:
    """Pictures of noise, of another colour in each class."""
    rng = np.random.default_rng(0)
    for label, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for i in range(each):
            pixels = rng.integers(0, 80, (SIDE, SIDE, 3), dtype=np.uint8)
            pixels[..., label] += 150
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder
