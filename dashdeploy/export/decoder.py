"""The decoder of a student of latents as a graph of its artifact: traced, quantized and held to its limit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch

from dashdeploy import autoencoder, seeds
from dashdeploy.artifact import SIGNATURES, DecoderInfo
from dashdeploy.autoencoder import Autoencoder, open_autoencoder
from dashdeploy.diffusion.denoiser import TorchDenoiser
from dashdeploy.diffusion.pixels import from_uint8
from dashdeploy.diffusion.sampling import SOLVERS, plan
from dashdeploy.errors import UserError
from dashdeploy.export.graph import graphs, onnx_file, rewrite
from dashdeploy.export.int8 import quantize as by_onnxruntime
from dashdeploy.figures import DecoderCheck
from dashdeploy.metrics.gap import relative_error
from dashdeploy.recipe.schema import Recipe, Sampling
from dashdeploy.runtime.sessions import Session
from dashdeploy.target import TENSORRT, Target

NUM_LATENTS = 9
"""Images that the check decodes: an odd number, and not the one that was traced."""
PEAK = 2.0
"""Between the least and the largest value of an image."""
FLOAT_LAYERS = ("conv_in", "post_quant_conv", "conv_out")
"""Of an int8 decoder, beside the first and the last: they see the latents, and make the pixels."""


@dataclass(frozen=True)
class Decoding:
    """The decoder that a target takes.

    own: the student's autoencoder; taken: that, or the target's in its place; both in torch, float32.
    """

    own: Autoencoder
    taken: Autoencoder
    info: DecoderInfo


def inputs(target: Target, recipe: Recipe) -> dict[str, str | None]:
    """What an artifact depends on beside its student and target: the weights of another autoencoder, or None.

    Raises:
        UserError: it is not there.
    """
    if target.vae is None or target.vae.path is None or not recipe.data.gives_latents:
        return {"vae": None}
    folder = Path(target.vae.path)
    if not folder.is_dir():
        raise UserError(f"target {target.name}: vae.path {folder}: no such folder. Expected that of an autoencoder.")
    return {"vae": autoencoder.sha256(folder)}


def find(student: Path, target: Target, latent_shape: tuple[int, int, int]) -> Decoding | None:
    """The decoder for a student's folder; None: the student makes images, or has no autoencoder, or the target none.

    Raises:
        UserError: the target's autoencoder is missing, or of other latents or images.
    """
    if target.vae is None or not autoencoder.is_there(student):
        return None
    folder = student / autoencoder.FOLDER
    own = open_autoencoder(folder, source=f"the student's autoencoder {folder}")
    shape, taken = own.image_shape(latent_shape), own
    if target.vae.path is not None:
        folder = Path(target.vae.path)
        taken = open_autoencoder(folder, source=f"target {target.name}: vae.path {folder}")
        if (other := taken.image_shape(latent_shape)) != shape:
            raise UserError(
                f"{taken.source}: it decodes these latents to images {other} (C, H, W), and the student's own "
                f"autoencoder to {shape}. Take one of the same stride and channels."
            )
    info = DecoderInfo(
        image_shape=shape,
        output=target.vae.output,
        at_once=target.vae.at_once,
        precision=target.decoder_precision,
        sha256=autoencoder.sha256(folder),
    )
    return Decoding(own, taken, info)


@torch.no_grad()
def draw(denoiser: TorchDenoiser, sampling: Sampling, count: int, *, seed: int) -> torch.Tensor:
    """Latents (count, c, h, w) that the student draws in torch, of the classes in turn."""
    interface = denoiser.interface
    run = plan(sampling, interface.schedule.num_train_timesteps, grids=interface.grids)
    generator = torch.Generator().manual_seed(seeds.derive(seed, "decoder"))
    noise = torch.randn((count, *interface.noise_shape(run)), generator=generator)
    return SOLVERS[run.solver](denoiser, noise, torch.arange(count) % interface.num_classes, run)


def trace(
    decoding: Decoding, target: Target, denoiser: TorchDenoiser, sampling: Sampling, *, seed: int, work: Path
) -> onnx.ModelProto:
    """The decoder's graph in the target's precision, with images in float32, in memory."""
    precision = decoding.info.precision
    computes: rewrite.FloatPrecision = "fp32" if precision == "int8" else precision
    rewritten = rewrite.autoencoder_for_export(decoding.taken, group_norm=target.group_norm, precision=computes)
    latents = draw(denoiser, sampling, target.calibration.num_images if precision == "int8" else 4, seed=seed + 1)
    (inputs, output), path = SIGNATURES["decoder"], work / "decoder.onnx"
    model = onnx_file.trace(
        graphs.Decode(rewritten), (latents[:4],), inputs=inputs, outputs=[output], opset=target.opset
    )
    if precision != "int8":
        return model
    onnx_file.save(model, path, metadata={}, single_file_mb=target.single_file_mb)
    ranges = by_onnxruntime.calibrate(path, work, _Feeds(latents), method=target.calibration.method)
    return by_onnxruntime.quantize(
        ranges, layers=int8_layers(list(ranges.layers)), symmetric=target.backend in TENSORRT
    )


def int8_layers(layers: Sequence[str]) -> list[str]:
    """Those of a decoder's convolutions that int8 is for: neither FLOAT_LAYERS, nor the first and the last.

    Args:
        layers: in the graph's order. AutoencoderTiny's have numbers for names.
    """
    return [name for name in layers[1:-1] if not name.endswith(FLOAT_LAYERS)]


class _Feeds:
    """ONNX Runtime's calibration feeds: latents, a few at a time."""

    def __init__(self, latents: torch.Tensor) -> None:
        self._parts: Iterator[torch.Tensor] = iter(latents.split(4))

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next batch, or None after the last."""
        part = next(self._parts, None)
        return None if part is None else {SIGNATURES["decoder"][0][0]: part.numpy()}


def check(
    session: Session, decoding: Decoding, target: Target, denoiser: TorchDenoiser, sampling: Sampling, *, seed: int
) -> DecoderCheck:
    """Decode latents that the student has drawn, alone and together, and compare with torch.

    Raises:
        UserError: an image is further from torch's than the target allows, or depends on its batch.
    """
    latents = draw(denoiser, sampling, NUM_LATENTS, seed=seed)
    expected = decoding.taken.decode(latents)
    sizes = [n for n in (1, 3, 5) if n <= decoding.info.at_once]
    given = [session(part) for part in _cut(latents, sizes)]
    images = torch.cat([from_uint8(part) if part.dtype == torch.uint8 else part for part in given])
    wanted = expected[: len(images)]
    worst = float("inf")
    if images.shape == wanted.shape and images.isfinite().all():
        worst = max(relative_error(a, b) for a, b in zip(images, wanted, strict=True))
    limit = target.decoder_error
    if decoding.info.output == "uint8":  # half a level of 255 on top
        limit += 0.5 / 127.5 / float(wanted.square().flatten(1).mean(1).sqrt().min())
    own = None
    if decoding.taken is not decoding.own:
        mean_square = (wanted - decoding.own.decode(latents[: len(images)])).square().flatten(1).mean(1)
        own = float((10 * torch.log10(PEAK**2 / mean_square.clamp(min=1e-12))).mean())
    found = DecoderCheck(
        precision=decoding.info.precision,
        num_latents=len(images),
        relative_error=worst,
        limit=limit,
        max_difference=float((images - wanted).abs().max()) if images.shape == wanted.shape else float("inf"),
        psnr_to_own=own,
    )
    if not worst <= limit:
        raise UserError(
            f"target {target.name}: the decoder in {decoding.info.precision} is off by {worst:.2e} of an image, limit "
            f"{limit:.2e}. No artifact was written. Set vae.precision to fp32 in a target file of your own, or raise "
            "vae.error."
        )
    return found


def _cut(latents: torch.Tensor, sizes: list[int]) -> Iterator[torch.Tensor]:
    start = 0
    for size in sizes:
        yield latents[start : start + size].contiguous()
        start += size
