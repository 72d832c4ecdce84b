"""Which layers int8 hurts most, and how few of them must stay in float for the guidance gate to pass."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from dashdeploy.errors import UserError
from dashdeploy.export.checks.gate import Gate, failure
from dashdeploy.figures import Rung

Build = Callable[[Collection[str]], Any]
"""Layers to quantize -> an opened Denoiser with a close()."""


@dataclass(frozen=True)
class Search:
    """The search's result: layers left in float, the passing rung, and what each layer does when only it is quantized.

    damage: layer -> the gate's largest figure over its limit, worst first; empty where no search was needed.
    """

    float_layers: list[str]
    rung: Rung
    damage: dict[str, float]


def search(
    layers: Collection[str],
    build: Build,
    gate: Gate,
    *,
    most: int,
    rank: Build | None = None,
    on_layer: Callable[[], None] | None = None,
) -> Search:
    """Quantize all layers; while the gate fails, leave the worst 1, 2, 4, … `most` of them in float.

    Args:
        rank: a quicker builder that single layers are judged with; None: `build`.

    Raises:
        UserError: the gate fails even then, or no layer may be left out; with the gate's table and the worst layer.
    """
    rung = _judge(build, layers, gate)
    if not rung.failures:
        return Search([], rung, {})
    damage: dict[str, float] = {}
    for layer in layers:
        damage[layer] = _judge(rank or build, [layer], gate).excess
        if on_layer is not None:
            on_layer()
    damage = dict(sorted(damage.items(), key=lambda item: -item[1]))
    left = 1
    while left <= min(most, len(damage) - 1):
        kept = list(damage)[:left]
        rung = _judge(build, [layer for layer in layers if layer not in kept], gate)
        if not rung.failures:
            return Search(kept, rung, damage)
        left = most if left < most < 2 * left else 2 * left
    worst, share = next(iter(damage.items()))
    raise UserError(
        f"{failure(rung, 'int8')} The worst layer is {worst}: by itself in int8 it takes {share:.2f} of a limit. "
        "Raise calibration.float_layers or the gate's limits."
    )


def _judge(build: Build, layers: Collection[str], gate: Gate) -> Rung:
    denoiser = build(layers)
    try:
        return gate.judge(denoiser, "int8")
    finally:
        denoiser.close()
