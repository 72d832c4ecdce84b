"""Which records make one table, and which images of a teacher share a row."""

from __future__ import annotations

from typing import Any

import pytest

from dashdeploy.compare import alike
from dashdeploy.compare.summary import Run, Summary, summarise
from dashdeploy.errors import UserError
from dashdeploy.recipe.comparison import Comparison
from dashdeploy.recipe.load import load_text
from tests.compare.test_summary import COMPARISON, EVEN, FIDS, record


def sampled_otherwise(runs: dict[str, tuple[float, dict[str, Any]]]) -> Summary:
    """runs: variant -> FID of its teacher's images, and the plan of these."""
    variants = {name: {"label": name} for name in runs}
    made = {}
    for name, (fid, plan) in runs.items():
        one = record((2.0, 4.0), 0.1)
        for row in (row for row in one["quality"]["rows"] if row["model"] == "teacher"):
            row["by_seed"][0]["fid"] = fid
        models = {model: {"parameters": 10, "plan": "recipe", "evaluations": 8} for model in ("student", "teacher")}
        made[name, 0] = Run(one | {"plans": {"recipe": plan}, "models": models}, "a", EVEN, EVEN)
    return summarise(
        Comparison.model_validate({"name": "x", "recipe": "digits", "seeds": [0], "variants": variants}), made
    )


PLAN = {"timesteps": [999, 499], "weights": [2.0, 2.0], "guidance": "w=2", "clip_sample": True, "solver": "ddim"}


@pytest.mark.parametrize(
    ("changed", "labels"),
    [
        ({"solver": "dpmpp_2m"}, ["teacher, 2 steps, DDIM", "teacher, 2 steps, DPM-Solver++(2M)"]),
        ({"clip_sample": False}, ["teacher, 2 steps, x_0 clipped", "teacher, 2 steps, x_0 not clipped"]),
        ({"timesteps": [500, 0]}, ["teacher, 2 steps, t 999 … 499", "teacher, 2 steps, t 500 … 0"]),
        ({"timesteps": [999, 666, 333]}, ["teacher, 2 steps", "teacher, 3 steps"]),
    ],
)
def test_a_teacher_that_samples_in_two_ways_has_a_row_for_each(changed: dict[str, Any], labels: list[str]) -> None:
    found = sampled_otherwise({"a": (1.0, PLAN), "b": (9.0, PLAN | changed)})
    assert [(row.label, row.fid["w=1"].mean) for row in found.teachers] == list(zip(labels, (1.0, 9.0), strict=True))
    assert [row.teacher for row in found.students] == ["teacher:a", "teacher:b"]


def test_guidance_alone_makes_no_other_row_of_a_teacher() -> None:
    found = sampled_otherwise({"a": (1.0, PLAN), "b": (1.0, PLAN | {"weights": [1.0, 1.0], "guidance": "w=1"})})
    assert [row.label for row in found.teachers] == ["teacher"]


def test_records_that_disagree_on_the_same_images_of_the_teacher_are_refused() -> None:
    with pytest.raises(UserError, match=r"teacher's fid at w=1 of sampling seed 0 is 1 in a seed 0 and 9 in b seed 0"):
        sampled_otherwise({"a": (1.0, PLAN), "b": (9.0, PLAN)})


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("num_images", 500, r"number of images \(1000 and 500\)"),
        ("features", {"name": "inception"}, r"feature network \(digits-classifier and inception\)"),
        ("seeds", [0, 1], r"number of sampling seeds \(1 and 2\)"),
        ("reference", {"sha256": "ab" * 32}, r"file of real images \(none and abababababab\)"),
    ],
)
def test_records_that_were_measured_otherwise_make_no_table(key: str, value: Any, expected: str) -> None:
    runs = {(v, s): Run(record(f, 0.1), "a", EVEN, EVEN) for v, of in FIDS.items() for s, f in of.items()}
    runs["dash", 1].record["quality"][key] = value  # type: ignore[index]
    with pytest.raises(UserError, match=f"scratch seed 0 and dash seed 1 differ in {expected}"):
        summarise(COMPARISON, runs)


def test_recipes_that_measure_otherwise_are_refused_before_anything_runs(tiny_text: str) -> None:
    asked, fewer, other_scales = (
        load_text(tiny_text, name="t", overrides=overrides)
        for overrides in ([], ["bench.quality.num_images=39"], ["bench.quality.guidance=[1.0]"])
    )
    expected = r"a and b differ in bench\.quality\.num_images \(40 and 39\), .* give all variants the same"
    with pytest.raises(UserError, match=expected):
        alike.refuse_unlike_recipes({"a": asked, "b": fewer})
    alike.refuse_unlike_recipes({"a": asked, "b": other_scales})
