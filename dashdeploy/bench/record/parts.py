"""The parts of a benchmark record: one class a kind of row, with units.

A figure that could not be computed is NaN in Python and null in the file, which is strict JSON.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer, model_validator

from dashdeploy.recipe.schema import Solver

Scope = Literal["step", "sampler"]
Branches = Literal["batched", "two-pass"]
Way = Literal["sampler", "step", "guided"]
SCOPES: tuple[Scope, ...] = ("step", "sampler")
Number = Annotated[
    float,
    BeforeValidator(lambda value: math.nan if value is None else value),
    PlainSerializer(lambda value: value if math.isfinite(value) else None, when_used="json"),
]
RATIO_TOLERANCE = 1e-3
"""Relative; a ratio is the medians' but for rounding."""


class Part(BaseModel):
    """Base of every part: frozen, and no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Machine(Part):
    """Where it was measured; gpu None: there was none."""

    cpu: str
    cores: int
    memory_gib: Number
    platform: str
    gpu: str | None = None


class Settings(Part):
    """The recipe's sections as they were resolved, and the sampler's timesteps, largest first."""

    sampling: dict[str, Any]
    latency: dict[str, Any]
    quality: dict[str, Any]
    fidelity: dict[str, Any]
    timesteps: tuple[int, ...]


class PlanInfo(Part):
    """One sampler run, worked out. weights: the guidance scale of each step; None: the record does not say."""

    guidance: str
    timesteps: tuple[int, ...]
    weights: tuple[float, ...] | None
    clip_sample: bool | None
    solver: Solver = "ddim"

    def differences(self, other: PlanInfo) -> list[str]:
        """In what two plans differ; empty where times of both can be set against each other."""
        found = []
        if len(self.timesteps) != len(other.timesteps):
            found.append(f"steps ({len(self.timesteps)} and {len(other.timesteps)})")
        elif self.timesteps != other.timesteps:
            found.append("timesteps")
        same_steps = len(self.timesteps) == len(other.timesteps)
        weights = same_steps and None not in (self.weights, other.weights) and self.weights != other.weights
        if self.guidance != other.guidance:
            found.append(f"guidance ({self.guidance} and {other.guidance})")
        elif weights:
            found.append(f"guidance (both {self.guidance}, with other scales at single steps)")
        if None not in (self.clip_sample, other.clip_sample) and self.clip_sample != other.clip_sample:
            found.append("clip_sample")
        if self.solver != other.solver:
            found.append(f"solver ({self.solver} and {other.solver})")
        return found


class ModelInfo(Part):
    """One measured model in one runtime. None and NaN: does not apply there, or was not measured.

    Attributes:
        file_bytes: of its weights; of an artifact, of the graph of a guided step.
        artifact_bytes: of all graphs of an artifact.
        peak_rss_mib: resident memory of a process that runs guided steps at the largest batch.
        precision: fp32, fp16, bf16 or int8.
        way: how it runs the whole sampler at the recipe's plan: one graph for all steps (sampler), a graph a step
            (step), or single predictions with the update in torch (guided).
        load_ms: opening it until the sampler's graph is ready, median over fresh processes that have imported the
            runtime and have the files in the page cache.
        first_call_ms: the first image after that, one at a time, all steps; the median over the same processes.
        build_s: seconds that its engines took to build, all together.
        build_peak_mib: most memory that the build of one of its engines took.
    """

    label: str
    runtime: str
    parameters: int | None
    file_bytes: int | None
    artifact_bytes: int | None
    sha256: str | None
    peak_rss_mib: Number
    precision: str | None
    way: Way | None
    load_ms: Number
    first_call_ms: Number
    build_s: Number
    build_peak_mib: Number


class LatencyRow(Part):
    """Wall time of one guided step, or of the whole sampler; images_per_s counts what that scope finishes.

    Attributes:
        plan: the sampler's, by its key in the record's plans; None for a step.
        way: how the sampler was run; None for a step.
        p50_low_ms, p50_high_ms: 95 % interval of the median; NaN where there were too few runs for one.
    """

    model: str
    branches: Branches
    scope: Scope
    batch_size: int
    plan: str | None
    way: Way | None
    p50_ms: Number
    p50_low_ms: Number
    p50_high_ms: Number
    p90_ms: Number
    p99_ms: Number
    mean_ms: Number
    repeats: int
    images_per_s: Number

    @model_validator(mode="after")
    def _says_which_plan(self) -> LatencyRow:
        if (self.plan is None) != (self.scope == "step"):
            raise ValueError(f"plan is {self.plan!r} for the scope {self.scope}; samplers have one and steps have none")
        return self


class Interval(Part):
    """A figure and its 95 % interval; low and high are NaN where none was computed."""

    value: Number
    low: Number
    high: Number


class QualityRow(Part):
    """Distances of one model's samples at one guidance; w None: guidance that changes over time."""

    model: str
    guidance: str
    w: float | None
    fid: Interval
    kid: Interval
    fid_to_teacher: Interval | None
    accuracy: Number


class Features(Part):
    """The network whose features the distances are taken in."""

    name: str
    sha256: str


class Quality(Part):
    features: Features
    num_images: int
    num_reference: int
    rows: tuple[QualityRow, ...]


class Gap(Part):
    """Guidance fidelity over t_low ≤ t < t_high: the fields of `metrics.gap.GapRow`."""

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


class FidelityRow(Part):
    model: str
    overall: Gap
    bins: tuple[Gap, ...]


class Fidelity(Part):
    guidance: str
    num_pairs: int
    rows: tuple[FidelityRow, ...]


class TrainingPoint(Part):
    """One line of metrics.jsonl. Each name in `terms` is a further key; so may be other figures (grad_norm)."""

    model_config = ConfigDict(extra="allow", frozen=True)
    __pydantic_extra__: dict[str, Number]

    step: int
    loss: Number
    terms: tuple[str, ...]
    learning_rate: Number
    images_per_s: Number

    def value(self, term: str) -> float:
        """A further figure by its name; NaN where the line has none."""
        return self.__pydantic_extra__.get(term, math.nan)


class BaselineRow(Part):
    """A control: FID by guidance label."""

    name: str
    label: str
    fid: dict[str, Number]
    energy_cosine: Number
    rho: Number


class Baselines(Part):
    """Controls measured elsewhere in the same way.

    recovery, by guidance label: (FID of the one from scratch − FID of the student) / (FID of the one from
    scratch − FID of the teacher).
    """

    source: str
    rows: tuple[BaselineRow, ...]
    recovery: dict[str, Number]


class Pair(Part):
    """ratio: median time of `slow` / median time of `fast`, from runs that took turns; NaN where it is refused.

    branches: the way of each to run both branches. refused: why there is no ratio; '' where there is one.
    """

    batch_size: int
    scope: Scope
    slow: str
    fast: str
    slow_branches: Branches
    fast_branches: Branches
    ratio: Number
    refused: str

    @model_validator(mode="after")
    def _is_a_ratio_or_refused(self) -> Pair:
        if math.isfinite(self.ratio) == bool(self.refused):
            raise ValueError("a pair has a ratio, or says in refused why it has none")
        return self


class Rung(Part):
    """One step of the guidance gate's ladder against torch float32. failures: a line for each limit it passes."""

    name: str
    overall: Gap
    bins: tuple[Gap, ...]
    failures: tuple[str, ...]


class ParityWorst(Part):
    """The largest relative error of one image that the parity check found, and where."""

    branch: str
    batch_size: int
    t_low: int
    t_high: int
    relative_error: Number


class GraphCheck(Part):
    """Errors of a cond, step or sampler graph against torch, from the same noise; NaN: does not apply to it."""

    graph: str
    step_error: Number = math.nan
    image_error: Number = math.nan
    max_difference: Number = math.nan


class ArtifactChecks(Part):
    """What the export measured of one artifact before it was written, taken from its manifest.

    Attributes:
        verified: where it was checked if not in its own runtime; '' otherwise.
        limits: of the gate, or of parity, by name.
        rungs: the gate's ladder after torch float32 itself; empty for an artifact that is held to parity.
        int8: quantized to int8 by its target.
        float_layers: of an int8 artifact the layers that were left in float.
        layer_types: of an artifact with engines, by graph: kind and type of layer -> how many of them.
    """

    model: str
    precision: str
    verified: str
    limits: dict[str, Number]
    rungs: tuple[Rung, ...]
    parity: ParityWorst | None
    graphs: tuple[GraphCheck, ...]
    int8: bool
    float_layers: tuple[str, ...]
    layer_types: dict[str, dict[str, int]]


class IntervalStudy(Part):
    """One model's sampler at guidance in an interval and at constant guidance of the same scale.

    The two are different plans, so their times are set side by side and never make a speed-up.

    Attributes:
        constant, interval: keys of the record's plans.
        alone: steps of the interval's plan that run the conditional branch alone.
        latency: rows of both plans.
        quality: rows at both guidances.
    """

    model: str
    constant: str
    interval: str
    alone: int
    latency: tuple[LatencyRow, ...]
    quality: tuple[QualityRow, ...]

    def row(self, plan: str, batch_size: int) -> LatencyRow | None:
        return next((r for r in self.latency if (r.plan, r.batch_size) == (plan, batch_size)), None)

    def saved(self, batch_size: int) -> float:
        """Share of the constant plan's median time that the interval's does without; NaN where one was not timed."""
        constant, interval = self.row(self.constant, batch_size), self.row(self.interval, batch_size)
        return 1 - interval.p50_ms / constant.p50_ms if constant and interval else math.nan
