"""Guidance in an interval of t on the deployed student, compared with constant guidance of the same scale."""

from __future__ import annotations

from collections.abc import Sequence

from dashdeploy.bench.measure import latency
from dashdeploy.bench.measure.quality import Job
from dashdeploy.bench.record.parts import PlanInfo, QualityRow
from dashdeploy.bench.record.times import GuidanceIntervalStudy
from dashdeploy.diffusion import guidance
from dashdeploy.diffusion.sampling import Plan, plan
from dashdeploy.recipe.schema import Guidance, GuidanceInterval, Recipe
from dashdeploy.runtime.model import Model

CONSTANT, INTERVAL = "constant", "interval"
"""Keys of the two plans in the record."""


def choose(recipe: Recipe) -> GuidanceInterval | None:
    """The interval to try: the recipe's (of sampling, else the first of quality), else its w at the default low, high.

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


def jobs(name: str, interval: GuidanceInterval) -> dict[Job, Guidance]:
    """Model `name` at the two guidances, for `quality.measure`."""
    return {(name, guidance.label(scale)): scale for scale in scales(interval).values()}


def measure(
    name: str, model: Model, recipe: Recipe, interval: GuidanceInterval, quality: Sequence[QualityRow]
) -> tuple[GuidanceIntervalStudy, dict[str, PlanInfo]]:
    """Time both plans on a model; the record's part on them, and the plans by key.

    Args:
        name: the model's key.
        quality: its rows at both guidances.
    """
    both = plans(recipe, interval, model.denoiser.interface.schedule.num_train_timesteps)
    timed = latency.measure_plans(name, model, recipe.bench.latency, both, seed=recipe.bench.seed)
    study = GuidanceIntervalStudy(
        model=name,
        constant_plan=CONSTANT,
        interval_plan=INTERVAL,
        cond_only_steps=both[INTERVAL].weights.count(1.0),
        latency=tuple(timed),
        quality=tuple(quality),
    )
    return study, {key: plan_info(scale, both[key]) for key, scale in scales(interval).items()}


def plan_info(scale: Guidance, sampling_plan: Plan) -> PlanInfo:
    """A plan as the record holds it."""
    return PlanInfo(
        guidance=guidance.label(scale),
        timesteps=sampling_plan.timesteps,
        weights=sampling_plan.weights,
        clip_sample=sampling_plan.clip_sample,
        solver=sampling_plan.solver,
    )
