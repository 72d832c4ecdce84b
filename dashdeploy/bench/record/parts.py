"""The parts of a benchmark record: a class for each kind of row, with units.

A figure that could not be computed is NaN in Python and null in the file, which is strict JSON.
"""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, model_validator

from dashdeploy.artifact import EngineLayers, GraphName
from dashdeploy.figures import GapRow, GateFigures, Number, Parity, SamplingCheck
from dashdeploy.recipe.schema import Solver

Scope = Literal["step", "sampler"]
Branches = Literal["batched", "two-pass"]
"""How both branches of the guidance are predicted: in one pass of twice the batch, or one after the other."""
SCOPES: tuple[Scope, ...] = ("step", "sampler")
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
    """A sampling plan.

    Attributes:
        guidance: its label in tables.
        timesteps: largest first.
        weights: the guidance scale of each step.
    """

    guidance: str
    timesteps: tuple[int, ...]
    weights: tuple[float, ...]
    clip_sample: bool
    solver: Solver

    def differences(self, other: PlanInfo) -> list[str]:
        """In what two plans differ; empty where times of both can be compared."""
        differing = []
        if len(self.timesteps) != len(other.timesteps):
            differing.append(f"steps ({len(self.timesteps)} and {len(other.timesteps)})")
        elif self.timesteps != other.timesteps:
            differing.append("timesteps")
        if self.guidance != other.guidance:
            differing.append(f"guidance ({self.guidance} and {other.guidance})")
        elif len(self.weights) == len(other.weights) and self.weights != other.weights:
            differing.append(f"guidance (both {self.guidance}, with other scales at some steps)")
        if self.clip_sample != other.clip_sample:
            differing.append("clip_sample")
        if self.solver != other.solver:
            differing.append(f"solver ({self.solver} and {other.solver})")
        return differing


class ModelInfo(Part):
    """One measured model in one runtime. None or NaN: does not apply to it, or was not measured.

    Attributes:
        file_bytes: size of its weights; of an artifact, size of the graph that makes a guided prediction.
        artifact_bytes: size of all graphs of an artifact.
        peak_rss_mib: resident memory of a process that runs `graph` at the largest batch. One for ONNX Runtime or
            OpenVINO has loaded its runtime and numpy only; any other torch too.
        precision: fp32, fp16, bf16 or int8.
        graph: what runs the whole sampler at the recipe's plan: one graph for all steps (sampler), a graph for a step
            (step), or a graph for a guided prediction with the update outside (guided).
        load_ms: time to open it until that graph is ready; the median over fresh processes that have imported the
            runtime and have the files in the page cache.
        first_call_ms: time of the first image after that, all steps; the median over the same processes.
        build_s: seconds that building all of its engines took.
        build_peak_mib: the most memory that building one of its engines took.
    """

    label: str
    runtime: str
    parameters: int | None
    file_bytes: int | None
    artifact_bytes: int | None
    sha256: str | None
    peak_rss_mib: Number
    precision: str | None
    graph: GraphName | None
    load_ms: Number
    first_call_ms: Number
    build_s: Number
    build_peak_mib: Number


class LatencyRow(Part):
    """Wall time of one guided step, or of the whole sampler.

    Attributes:
        plan: key of the sampling plan in the record's plans; None for a step.
        graph: what ran the sampler; None for a step.
        p50_low_ms, p50_high_ms: 95 % confidence interval of the median; NaN where there were too few runs for one.
        images_per_s: images that went through the scope, one step or the whole sampler.
    """

    model: str
    branches: Branches
    scope: Scope
    batch_size: int
    plan: str | None
    graph: GraphName | None
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


class Estimate(Part):
    """A figure, and the low and high end of its 95 % confidence interval, NaN where none was computed."""

    value: Number
    low: Number
    high: Number


class QualityRow(Part):
    """Distances and accuracy of one model's images at one guidance.

    Attributes:
        w: the guidance scale; None: guidance that changes over t.
        fid, kid: distance to the real images.
        fid_to_teacher: distance to the teacher's images at the same guidance; None: the teacher has none there.
        accuracy: share of the images that a classifier takes for their class; NaN without a classifier.
    """

    model: str
    guidance: str
    w: float | None
    fid: Estimate
    kid: Estimate
    fid_to_teacher: Estimate | None
    accuracy: Number


class Features(Part):
    """The network in whose features distances are computed.

    held_out_accuracy: of a classifier that was fitted to the recipe's images; None: of any other network.
    """

    name: str
    sha256: str
    held_out_accuracy: float | None = None

    @property
    def title(self) -> str:
        """What pages call it."""
        if self.held_out_accuracy is None:
            return self.name
        return f"{self.name} (held-out accuracy {100 * self.held_out_accuracy:.1f} %)"


class Quality(Part):
    """num_images: of each model at each guidance; num_reference: real images.

    features: None: none were wanted, and there are no rows.
    """

    features: Features | None
    num_images: int
    num_reference: int
    rows: tuple[QualityRow, ...]


class FidelityRow(Part):
    """One student's guidance fidelity over all t, and in each range of t."""

    model: str
    overall: GapRow
    bins: tuple[GapRow, ...]


class Fidelity(Part):
    """guidance: the label of the scale of the guided prediction; num_pairs: held-out noisy images."""

    guidance: str
    num_pairs: int
    rows: tuple[FidelityRow, ...]


class TrainingPoint(Part):
    """One line of metrics.jsonl. Each name in `terms` is also a key; there can be more keys (grad_norm)."""

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
    """Controls that were measured under the same conditions.

    recovery, by guidance label: (FID of the control from scratch − FID of the student) / (FID of the control from
    scratch − FID of the teacher).
    """

    source: str
    rows: tuple[BaselineRow, ...]
    recovery: dict[str, Number]


class Pair(Part):
    """A speed-up: two models at the same work, timed in turns.

    Attributes:
        slow_branches, fast_branches: which of batched and two-pass is the faster one of each model.
        ratio: median time of `slow` / median time of `fast`; NaN where it is refused.
        refused: why there is no ratio; '' where there is one.
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


class ArtifactChecks(Part):
    """What the export measured of one artifact before it was written, from its manifest.

    Attributes:
        verified: where it was checked if not in the artifact's runtime; '' otherwise.
        parity: of a float32 artifact, with the worst row only.
        gate: of a lower precision.
        sampling: of the cond, step and sampler graphs that it has.
        float_layers: layers of an int8 artifact that were left in float; None: it is not int8.
        layers: types of the layers of its engines, by graph.
    """

    model: str
    precision: str
    verified: str
    parity: Parity | None
    gate: GateFigures | None
    sampling: tuple[SamplingCheck, ...]
    float_layers: tuple[str, ...] | None
    layers: dict[GraphName, EngineLayers]


class GuidanceIntervalStudy(Part):
    """One model's sampler with guidance in an interval of t, and with constant guidance of the same scale.

    The two are different plans: their times stand side by side and never make a speed-up.

    Attributes:
        constant_plan, interval_plan: keys of the record's plans.
        cond_only_steps: steps of the interval's plan that run the conditional branch only.
        latency: rows of both plans.
        quality: rows of both guidances.
    """

    model: str
    constant_plan: str
    interval_plan: str
    cond_only_steps: int
    latency: tuple[LatencyRow, ...]
    quality: tuple[QualityRow, ...]

    def row(self, plan: str, batch_size: int) -> LatencyRow | None:
        """The row of one plan at one batch."""
        return next((r for r in self.latency if (r.plan, r.batch_size) == (plan, batch_size)), None)

    def saved(self, batch_size: int) -> float:
        """Share of the constant plan's median time that the interval saves; NaN where one of them was not timed."""
        constant, interval = self.row(self.constant_plan, batch_size), self.row(self.interval_plan, batch_size)
        return 1 - interval.p50_ms / constant.p50_ms if constant and interval else math.nan
