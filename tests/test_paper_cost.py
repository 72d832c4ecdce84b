"""What the paper's recipe is said to cost: at w = 1 a step runs one branch, at any other w both."""

from __future__ import annotations

import json
from pathlib import Path

from dashdeploy.recipe.load import load_recipe

RESULT = Path(__file__).resolve().parent.parent / "benchmarks" / "results" / "paper-cost.json"


def test_the_benchmark_counts_one_forward_a_step_where_guidance_is_off() -> None:
    result, recipe = json.loads(RESULT.read_text()), load_recipe("cifar10-paper")
    steps, scales = recipe.sampling.num_inference_steps, recipe.bench.quality.guidance
    assert list(scales).count(1.0) == 1
    forwards = steps + 2 * steps * (len(scales) - 1)
    (bench,) = (row for row in result["rows"] if row["stage"] == "bench")
    assert bench["flop"] == recipe.bench.quality.num_images * forwards * sum(result["forward_flop"].values())
