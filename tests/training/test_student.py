from __future__ import annotations

from pathlib import Path

from dashdeploy.data import load_dataset
from dashdeploy.diffusion.sampling import plan
from dashdeploy.teachers import formats
from dashdeploy.training.student import live_source


def test_t_is_drawn_from_the_sampler_s_timesteps_alone(recipe_with, tiny_run: Path) -> None:
    teacher = formats.load(tiny_run / "teacher", role="teacher")
    recipe = recipe_with("distill.timesteps=sampling", "sampling.num_inference_steps=7")
    data = load_dataset(recipe.data)
    source = live_source(recipe, data, teacher)
    visited = set(plan(recipe.sampling, 1000).timesteps)
    drawn = {int(t) for step in range(40) for t in source.draw(step).t}
    assert drawn == visited and len(visited) == 7
    everywhere = live_source(recipe_with("sampling.num_inference_steps=7"), data, teacher)
    assert len({int(t) for step in range(40) for t in everywhere.draw(step).t}) > 100
