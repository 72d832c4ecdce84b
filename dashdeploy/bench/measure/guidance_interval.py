"""Which guidance interval the benchmark tries on the deployed student, and the plans that it compares."""

from __future__ import annotations

from dashdeploy.bench.record.parts import GuidanceIntervalStudy, LatencyRow, PlanInfo, QualityRow
from dashdeploy.diffusion import guidance
from dashdeploy.diffusion.sampling import Plan, plan
from dashdeploy.recipe.schema import Guidance, GuidanceInterval, Recipe

CONSTANT, INTERVAL = "constant", "interval"
"""Keys of the two plans in the record."""


def choose(recipe: Recipe) -> GuidanceInterval | None:
    """The recipe's interval (of sampling, else the first of quality), else its w at the schema's default low and high.

    A scale that changes over t counts with its value at T/2. None where guidance is off: then every step runs the
    conditional branch only, whatever the interval.
    """
    scale = recipe.sampling.guidance
    for candidate in (scale, *recipe.bench.quality.guidance):
        if isinstance(candidate, GuidanceInterval):
            return candidate if candidate.w != 1 else None
    w = guidance.weight(scale, 0.5, 1)
    return GuidanceInterval(w=w) if w != 1 else None


def scales(interval: GuidanceInterval) -> dict[str, Guidance]:
    """The two guidances to compare, by the keys of their plans."""
    return {CONSTANT: float(interval.w), INTERVAL: interval}


def plans(recipe: Recipe, interval: GuidanceInterval, num_train_timesteps: int) -> dict[str, Plan]:
    """The two sampling plans, by key."""
    return {key: plan(recipe.sampling, num_train_timesteps, scale=s) for key, s in scales(interval).items()}


def study(
    model: str, both: dict[str, Plan], latency: list[LatencyRow], quality: list[QualityRow]
) -> GuidanceIntervalStudy:
    """The record's part on them."""
    return GuidanceIntervalStudy(
        model=model,
        constant_plan=CONSTANT,
        interval_plan=INTERVAL,
        cond_only_steps=both[INTERVAL].weights.count(1.0),
        latency=tuple(latency),
        quality=tuple(quality),
    )


def plan_info(scale: Guidance, sampling_plan: Plan) -> PlanInfo:
    """A plan as the record holds it."""
    return PlanInfo(
        guidance=guidance.label(scale),
        timesteps=sampling_plan.timesteps,
        weights=sampling_plan.weights,
        clip_sample=sampling_plan.clip_sample,
        solver=sampling_plan.solver,
    )
