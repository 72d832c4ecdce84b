"""Which guidance interval the benchmark tries on the deployed student, against constant guidance."""

from __future__ import annotations

from typing import Any

from dashdeploy.bench.record.parts import IntervalStudy, LatencyRow, PlanInfo, QualityRow
from dashdeploy.diffusion import guidance
from dashdeploy.diffusion.sampling import Plan, plan
from dashdeploy.recipe.schema import Guidance, GuidanceInterval, Recipe

CONSTANT, INTERVAL = "constant", "interval"
"""Keys of the two plans in the record."""


def choose(recipe: Recipe) -> GuidanceInterval | None:
    """The recipe's own interval (of sampling, else the first of quality), else its w at the schema's low and high.

    A scale that changes over time counts with its value at T/2. None where guidance is off: every step runs the
    conditional branch alone then, whatever the interval.
    """
    own = recipe.sampling.guidance
    for scale in (own, *recipe.bench.quality.guidance):
        if isinstance(scale, GuidanceInterval):
            return scale if scale.w != 1 else None
    w = guidance.weight(own, 0.5, 1)
    return GuidanceInterval(w=w) if w != 1 else None


def scales(interval: GuidanceInterval) -> dict[str, Guidance]:
    """The two guidances to compare, by the keys of their plans."""
    return {CONSTANT: float(interval.w), INTERVAL: interval}


def plans(recipe: Recipe, interval: GuidanceInterval, num_train_timesteps: int) -> dict[str, Plan]:
    """Their sampler runs."""
    return {key: plan(recipe.sampling, num_train_timesteps, scale=s) for key, s in scales(interval).items()}


def has_cond(artifact: dict[str, Any]) -> bool:
    """Whether an artifact has a graph of the conditional branch alone."""
    return "cond" in artifact.get("graphs", {})


def study(model: str, both: dict[str, Plan], latency: list[LatencyRow], quality: list[QualityRow]) -> IntervalStudy:
    """The record's part about them."""
    return IntervalStudy(
        model=model,
        constant=CONSTANT,
        interval=INTERVAL,
        alone=both[INTERVAL].weights.count(1.0),
        latency=tuple(latency),
        quality=tuple(quality),
    )


def plan_info(scale: Guidance, worked_out: Plan) -> PlanInfo:
    """A plan as the record holds it."""
    return PlanInfo(
        guidance=guidance.label(scale),
        timesteps=worked_out.timesteps,
        weights=worked_out.weights,
        clip_sample=worked_out.clip_sample,
        solver=worked_out.solver,
    )
