from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import ValidationError

from dashdeploy.errors import UserError
from dashdeploy.fields import MOST
from dashdeploy.packages.schema import Package
from dashdeploy.recipe.comparison import Comparison
from dashdeploy.recipe.load import load_recipe
from dashdeploy.recipe.schema import Recipe
from dashdeploy.target import Target


def whole_numbers(schema: Any, place: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every part of a JSON Schema that takes any whole numbers, with the keys that lead to it."""
    if isinstance(schema, dict):
        if schema.get("type") == "integer" and "enum" not in schema:
            yield place, schema
        for key, value in schema.items():
            yield from whole_numbers(value, f"{place}.{key}")
    elif isinstance(schema, list):
        for value in schema:
            yield from whole_numbers(value, place)


@pytest.mark.parametrize("model", [Recipe, Comparison, Target, Package])
def test_every_whole_number_has_both_bounds(model: Any) -> None:
    found = list(whole_numbers(model.model_json_schema(), model.__name__))
    assert found
    for place, schema in found:
        assert {"minimum", "exclusiveMinimum"} & schema.keys(), place
        assert {"maximum", "exclusiveMaximum"} & schema.keys(), place


WRONG = {
    "seed=18446744073709551616": "seed: must be < 9,223,372,036,854,775,808, got 18446744073709551616",
    "distill.threads=5000": "distill.threads: must be ≤ 1,024, got 5000",
    "data.image_size=100000": "data.image_size: must be ≤ 4,096, got 100000",
    "distill.steps=1000000000000000000": f"distill.steps: must be ≤ {MOST:,}, got 1000000000000000000",
    "distill.learning_rate=1e300": f"distill.learning_rate: must be ≤ {MOST:,}, got 1e+300",
    "distill.timestep_weights.alpha=-1e300": f"distill.timestep_weights.alpha: must be ≥ {-MOST:,}, got -1e+300",
    "distill.timestep_weights.alpha=11": "distill.timestep_weights.alpha: must be ≤ 10, got 11",
    "sampling.guidance=1e7": "sampling.guidance: must be ≤ 1,000,000, got 10000000.0",
    "sampling.guidance=.nan": "sampling.guidance: must be a finite number, got NaN",
    "noise_schedule.num_train_timesteps=1000000": "noise_schedule.num_train_timesteps: must be ≤ 100,000, got 1000000",
    "bench.quality.num_images=10000000": "bench.quality.num_images: must be ≤ 1,000,000, got 10000000",
    "bench.fidelity.bins=5000": "bench.fidelity.bins: must be ≤ 1,000, got 5000",
    "distill.batch_size=1000000": "distill.batch_size: must be ≤ 65,536, got 1000000",
    'data.path="a\\0b"': r"data.path: has the control character '\x00'",
}


@pytest.mark.parametrize("override", WRONG)
def test_a_number_out_of_all_proportion_names_its_key_and_bound(override: str) -> None:
    with pytest.raises(UserError) as told:
        load_recipe("digits", overrides=[override])
    assert WRONG[override].split(": ", 1)[1] in str(told.value)


def test_a_name_leaves_room_for_the_names_beside_it() -> None:
    Target(name="x" * 100, description="mine")
    with pytest.raises(ValidationError, match="at most 100"):
        Target(name="x" * 101, description="mine")
