"""The parts of a benchmark record that are times: latency, speed-ups, and what a guidance interval saves."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import model_validator

from dashdeploy.artifact import GraphName
from dashdeploy.bench.record.parts import Estimate, Part, QualityRow
from dashdeploy.figures import Number

Scope = Literal["step", "sampler"]
Branches = Literal["batched", "two-pass"]
"""How both branches of the guidance are predicted: in one pass of twice the batch, or one after the other."""
SCOPES: tuple[Scope, ...] = ("step", "sampler")
RATIO_TOLERANCE = 1e-3
"""Relative; a ratio is the medians' but for rounding."""


class LatencyRow(Part):
    """Wall time of one guided step, or of the whole sampler.

    Attributes:
        plan: key of the sampling plan in the record's plans; None for a step.
        graph: what ran the sampler; None for a step.
        p50_low_ms, p50_high_ms: 95 % confidence interval of the median; NaN where there were too few runs for one.
        p90_ms, p99_ms: NaN where there were too few runs for them.
        evaluations: of the network for an image; None: a record of before they were counted.
        images_per_s: images that went through the scope, one step or the whole sampler.
    """

    model: str
    branches: Branches
    scope: Scope
    batch_size: int
    plan: str | None
    graph: GraphName | None
    evaluations: int | None = None
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

    @property
    def p50(self) -> Estimate:
        """The median in ms, with its confidence interval."""
        return Estimate(value=self.p50_ms, low=self.p50_low_ms, high=self.p50_high_ms)


class DecodingRow(Part):
    """Wall time of decoding a batch of latents, which the sampler's time includes; see `LatencyRow`."""

    model: str
    batch_size: int
    p50_ms: Number
    p50_low_ms: Number
    p50_high_ms: Number
    repeats: int

    @property
    def p50(self) -> Estimate:
        """The median in ms, with its confidence interval."""
        return Estimate(value=self.p50_ms, low=self.p50_low_ms, high=self.p50_high_ms)


class Pair(Part):
    """A speed-up: two models at the same work, timed in turns.

    Attributes:
        slow_branches, fast_branches: which of batched and two-pass is the faster one of each model.
        ratio: median time of `slow` / median time of `fast`; NaN where it is refused.
        low, high: its 95 % confidence interval; NaN where there were too few runs for one.
        refused: why there is no ratio; '' where there is one.
    """

    batch_size: int
    scope: Scope
    slow: str
    fast: str
    slow_branches: Branches
    fast_branches: Branches
    ratio: Number
    low: Number
    high: Number
    refused: str

    @model_validator(mode="after")
    def _is_a_ratio_or_refused(self) -> Pair:
        if math.isfinite(self.ratio) == bool(self.refused):
            raise ValueError("a pair has a ratio, or says in refused why it has none")
        return self


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
