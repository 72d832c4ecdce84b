"""How long decoding latents takes, by itself: models take turns, as in `latency`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from dashdeploy import seeds
from dashdeploy.bench.measure.latency import interleave, median_interval, wait
from dashdeploy.bench.record.times import DecodingRow
from dashdeploy.recipe.schema import Latency
from dashdeploy.runtime.model import Model


def measure(models: dict[str, Model], config: Latency, *, seed: int) -> tuple[DecodingRow, ...]:
    """A row for each model that decodes, at each batch size; none where no model does."""
    rows = []
    for batch_size in config.batch_sizes:
        calls = {name: _call(model, batch_size, seed=seed) for name, model in models.items() if model.decoder}
        for name, times in interleave(calls, repeats=config.repeats).items():
            low, high = median_interval(ms := np.array(times) * 1e3, seed=seed)
            rows.append(
                DecodingRow(
                    model=name,
                    batch_size=batch_size,
                    p50_ms=float(np.median(ms)),
                    p50_low_ms=low,
                    p50_high_ms=high,
                    repeats=len(ms),
                )
            )
    return tuple(rows)


def _call(model: Model, batch_size: int, *, seed: int) -> Callable[[], None]:
    generator = torch.Generator().manual_seed(seeds.derive(seed, "decoding", batch_size))
    shape = model.denoiser.interface.image_shape
    latents = torch.randn((batch_size, *shape), generator=generator).to(model.device)
    assert model.decoder is not None
    decode = model.decoder

    @torch.inference_mode()
    def call() -> None:
        decode(latents)
        wait(model.device)

    return call
