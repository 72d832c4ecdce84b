"""What the checks of an artifact measured: parity, guidance gate, sampling and int8, as manifests and records keep it.

A figure that is not a finite number is NaN in Python and null in JSON, which is strict.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

Number = Annotated[
    float,
    Field(allow_inf_nan=True),
    BeforeValidator(lambda value: math.nan if value is None else value),
    PlainSerializer(lambda value: value if math.isfinite(value) else None, when_used="json", return_type=float | None),
]
Error = Annotated[float, Field(allow_inf_nan=True)]
"""Infinite or NaN for an output of another shape or that is not finite; such an artifact is never written."""
CheckedGraph = Literal["cond", "step", "sampler"]


class Part(BaseModel):
    """Base of every part: frozen. Keys that are not known are passed over: the format number guards the known ones."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


class GapRow(Part):
    """Guidance fidelity over t_low ≤ t < t_high. Ratios are of sums over the range, not means of ratios.

    Δ = eps_cond − eps_uncond is the guidance gap; S is the model that is measured, T its reference.

    Attributes:
        num: draws within the range.
        rho: E‖Δ_S‖/E‖Δ_T‖.
        relative_error: √(E‖Δ_S−Δ_T‖²/E‖Δ_T‖²).
        energy_cosine: E⟨Δ_S,Δ_T⟩/√(E‖Δ_S‖²·E‖Δ_T‖²).
        mean_cosine: E[cos(Δ_S,Δ_T)].
        slope: E⟨Δ_S,Δ_T⟩/E‖Δ_T‖².
        mse: E‖Δ_S−Δ_T‖² a pixel.
        guided_error: √(E‖eps_w,S − eps_w,T‖²/E‖eps_w,T‖²).
        uncond_error, cond_error: the same of each branch.
    """

    t_low: int
    t_high: int
    num: int
    rho: Number
    relative_error: Number
    energy_cosine: Number
    mean_cosine: Number
    slope: Number
    mse: Number
    guided_error: Number
    uncond_error: Number
    cond_error: Number


class ParityRow(Part):
    """Largest relative error √(Σ(output − expected)²/Σ expected²) of one image, at one batch size and range of t.

    problem: why the output is unusable whatever its error; None: it is usable.
    """

    branch: Literal["uncond", "cond", "guided"]
    batch_size: int
    t_low: int
    t_high: int
    relative_error: Number
    problem: str | None = None


class Parity(Part):
    """How closely a float32 artifact follows the student in torch: all rows, the worst, and the limits by name."""

    limits: dict[str, float]
    worst: ParityRow
    rows: tuple[ParityRow, ...]


class Bounds(Part):
    """What figures of a `GapRow` would reach on other draws: an upper bound of each error, a lower one of the cosine.

    Each holds with 97.5 % confidence, by a bootstrap over the trajectories that the draws come from.
    """

    relative_error: Number
    energy_cosine: Number
    guided_error: Number
    uncond_error: Number
    cond_error: Number


class Rung(Part):
    """One step of the guidance gate's ladder against torch float32: figures over all t, and in each range of t.

    Attributes:
        bounds: of `overall`, then of each of `bins`; empty where an output is unusable.
        excess: the largest figure over its limit; infinite for an output that is unusable.
        excess_bound: the largest bound over its limit; above 1 is a failure.
        failures: a line for each limit that a bound is past.
    """

    name: str
    overall: GapRow
    bins: tuple[GapRow, ...]
    bounds: tuple[Bounds, ...] = ()
    excess: Number
    excess_bound: Number = math.nan
    failures: tuple[str, ...] = ()


class GateFigures(Part):
    """The guidance gate of a lower precision: its limits by name, and the ladder from torch float32 to the artifact.

    The draws that it is judged on have part in no choice: neither calibration nor the search for sensitive layers has
    seen them.
    """

    limits: dict[str, float]
    rungs: tuple[Rung, ...]


class SamplingCheck(Part):
    """Worst figures of one graph against torch from the same noise; None: does not apply to this graph.

    Attributes:
        step_error: relative error of x_prev (step) or eps (cond), each step from torch's x_t.
        image_error: relative error of the final images.
        max_difference: of one pixel of the final images, which span 2.
    """

    graph: CheckedGraph
    step_error: Error | None = None
    image_error: Error | None = None
    max_difference: Error | None = None


class DecoderCheck(Part):
    """A decoder graph against the same autoencoder in torch, float32, on latents that the student has drawn.

    Attributes:
        precision: of the graph.
        num_latents: images that were decoded.
        relative_error, limit: of an image, the largest, and what is allowed.
        max_difference: of one pixel; images span 2.
        psnr_to_own: of a decoder that stands in for the student's own: the mean over the images of the peak
            signal-to-noise ratio between the two, in dB; None: it is the student's own.
    """

    precision: str
    num_latents: int
    relative_error: Error
    limit: Error
    max_difference: Error
    psnr_to_own: Number | None = None


class Int8Figures(Part):
    """How an int8 artifact was quantized.

    Attributes:
        calibration_draws: draws of (x_t, t, y) that the activations' ranges come from.
        calibration_t: their timesteps.
        symmetric: activations are int8 without zero points, as TensorRT wants them; else uint8.
        float_layers: torch names of layers that were left in float.
        damage: layer -> the gate's largest figure over its limit when only this layer is quantized, worst first;
            empty where the gate passed with all of them.
    """

    calibration_draws: int
    calibration_t: tuple[int, ...]
    symmetric: bool
    float_layers: tuple[str, ...]
    damage: dict[str, Number]


class Checks(Part):
    """Everything that the export measured of one artifact before it was written.

    Attributes:
        verified: where it was checked if not in its runtime; '' otherwise.
        sampling: of the cond, step and sampler graphs that it has.
        parity: of a float32 artifact.
        gate: of a lower precision.
        int8: of an int8 artifact.
        decoder: of a student of latents.
        file_bytes: of the files of all its graphs.
    """

    verified: str
    sampling: tuple[SamplingCheck, ...] = ()
    parity: Parity | None = None
    gate: GateFigures | None = None
    int8: Int8Figures | None = None
    decoder: DecoderCheck | None = None
    file_bytes: int
