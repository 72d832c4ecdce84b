"""Train the small autoencoder of fashion-mnist-latent: python benchmarks/train_autoencoder.py

Writes recipes/autoencoders/fashion-mnist (an AutoencoderKL of 32×32 grey images and 8×8 latents of four channels) and
benchmarks/results/autoencoder-fashion-mnist.json: how far reconstructions of held-out images are from the images.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch.nn import functional

from dashdeploy import stages
from dashdeploy.autoencoder import Autoencoder
from dashdeploy.bench.measure.machine import machine
from dashdeploy.data import load_dataset
from dashdeploy.data.images import ImageStream, LabelledImages, to_float
from dashdeploy.metrics import frechet
from dashdeploy.metrics.features import open_extractor
from dashdeploy.recipe.schema import Data

ROOT = Path(__file__).resolve().parent.parent
SEED, HOLDOUT = 0, 0.1
ARCHITECTURE: dict[str, Any] = {
    "in_channels": 1,
    "out_channels": 1,
    "latent_channels": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "block_out_channels": (8, 16, 32),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "sample_size": 32,
}
KL_WEIGHT = 1e-5
"""Of the divergence to a standard normal, as in latent diffusion (Rombach et al. 2022, 1e-6 there): it only bounds."""


def train(data: LabelledImages, *, steps: int, batch_size: int, learning_rate: float) -> Any:
    """Mean absolute error, the divergence, Adam with a cosine to 0."""
    torch.manual_seed(SEED)
    model: Any = AutoencoderKL(**ARCHITECTURE)
    stream = ImageStream(data, batch_size=batch_size, seed=SEED)
    optimizer = torch.optim.Adam(model.parameters(), learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(SEED)
    start = time.perf_counter()
    for step in range(steps):
        x = torch.from_numpy(stream.batch(step)[0])
        posterior = model.encode(x).latent_dist
        z = posterior.mean + posterior.std * torch.randn(posterior.mean.shape, generator=generator)
        loss = functional.l1_loss(model.decode(z).sample, x) + KL_WEIGHT * posterior.kl().mean() / x[0].numel()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 200 == 0:
            print(f"step {step}/{steps}: loss {float(loss):.4f}, {time.perf_counter() - start:.0f} s", flush=True)
    return model


@torch.no_grad()
def scaled(model: Any, data: LabelledImages) -> Any:
    """The same with the scaling factor that gives its latents a standard deviation of 1, as latent diffusion does."""
    x = torch.from_numpy(to_float(data.images[:2000]))
    latents = torch.cat([model.encode(part).latent_dist.mode() for part in x.split(100)])
    model.register_to_config(scaling_factor=round(1 / float(latents.std()), 5), shift_factor=None)
    return model


def figures(model: Any, train_data: LabelledImages, held_out: LabelledImages) -> dict[str, Any]:
    """Error of reconstructions, and their FID to the images; images by themselves have the FID of a second sample."""
    images = held_out.images
    autoencoder = Autoencoder(model, source="the autoencoder")
    with torch.no_grad():
        latents = torch.cat([autoencoder.encode(part) for part in torch.from_numpy(to_float(images)).split(100)])
    made = ((autoencoder.decode(latents, at_once=100) + 1) * 127.5).round().to(torch.uint8)
    error = (made.float() - torch.from_numpy(images).float()) / 127.5
    extractor = open_extractor("fashion_mnist", held_out, weights=None, holdout=0.0)
    assert extractor is not None
    real = frechet.statistics(extractor(torch.from_numpy(train_data.images))[0])

    def fid(some: torch.Tensor) -> float:
        return frechet.fid([extractor(some)[0]], real, resamples=0, seed=SEED).value

    return {
        "num_images": len(images),
        "mean_absolute_error": float(error.abs().mean()),
        "psnr_db": float((10 * torch.log10(4 / error.square().flatten(1).mean(1))).mean()),
        "fid_of_reconstructions": fid(made),
        "fid_of_held_out_images": fid(torch.from_numpy(images)),
        "latent_mean": float(latents.mean()),
        "latent_std": float(latents.std()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--folder", type=Path, default=ROOT / "recipes" / "autoencoders" / "fashion-mnist")
    options = parser.parse_args()
    data = load_dataset(Data(name="fashion_mnist", image_size=32))
    train_data, held_out = data.split(HOLDOUT)
    start = time.perf_counter()
    how: dict[str, Any] = {
        "steps": options.steps,
        "batch_size": options.batch_size,
        "learning_rate": options.learning_rate,
    }
    model = scaled(train(train_data, **how), train_data).eval()
    seconds = time.perf_counter() - start
    Autoencoder(model, source="the autoencoder").save(options.folder)
    parameters = sum(p.numel() for p in model.parameters())
    found = {
        "machine": machine(),
        "versions": stages.versions(),
        "seed": SEED,
        "training": {**how, "seconds": round(seconds), "threads": torch.get_num_threads()},
        "parameters": parameters,
        "file_bytes": (options.folder / "diffusion_pytorch_model.safetensors").stat().st_size,
        "figures": figures(model, train_data, held_out),
    }
    path = ROOT / "benchmarks" / "results" / "autoencoder-fashion-mnist.json"
    path.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found["figures"], indent=2))


if __name__ == "__main__":
    main()
