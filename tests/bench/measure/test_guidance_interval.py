"""The guidance interval that the benchmark tries."""

from __future__ import annotations

import pytest

from dashdeploy.bench.measure import guidance_interval
from dashdeploy.recipe.schema import Guidance, GuidanceInterval, Recipe, Tag


def recipe(base: Recipe, scale: Guidance, *others: Guidance) -> Recipe:
    quality = base.bench.quality.model_copy(update={"guidance": others})
    return base.model_copy(
        update={
            "sampling": base.sampling.model_copy(update={"guidance": scale}),
            "bench": base.bench.model_copy(update={"quality": quality}),
        }
    )


@pytest.mark.parametrize(
    ("scale", "others", "expected"),
    [
        (3.0, (), GuidanceInterval(w=3, low=0.2, high=0.8)),
        (3.0, (1.0, GuidanceInterval(w=4, low=0.1, high=0.3)), GuidanceInterval(w=4, low=0.1, high=0.3)),
        (GuidanceInterval(w=5, low=0, high=0.5), (GuidanceInterval(w=4),), GuidanceInterval(w=5, low=0, high=0.5)),
        (Tag(w_min=1, w_max=4), (), GuidanceInterval(w=2.5)),
        (1.0, (2.0,), None),
    ],
)
def test_the_interval_is_the_recipes_own_or_its_scale_at_middle_noise(
    tiny_recipe: Recipe, scale: Guidance, others: tuple[Guidance, ...], expected: GuidanceInterval | None
) -> None:
    assert guidance_interval.choose(recipe(tiny_recipe, scale, *others)) == expected


def test_both_plans_have_the_same_steps_and_the_interval_leaves_guidance_out_outside(tiny_recipe: Recipe) -> None:
    plans = guidance_interval.plans(tiny_recipe, GuidanceInterval(w=3, low=0.4, high=0.8), 1000)
    assert plans["constant"].timesteps == plans["interval"].timesteps
    assert plans["constant"].weights == (3.0, 3.0, 3.0, 3.0)
    assert plans["interval"].weights == (1.0, 3.0, 3.0, 1.0)
