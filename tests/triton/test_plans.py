"""plans.py, which the server runs, against the plans of Python: timesteps, guidance over time, and what is refused."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest

from dashdeploy import stages
from dashdeploy.diffusion import sampling
from dashdeploy.recipe.schema import GuidanceInterval, Sampling, Tag
from tests.triton.conftest import load

TOTAL = 1000


@pytest.fixture(scope="session")
def plans(python_package: stages.Stage) -> ModuleType:
    return load("triton_plans", python_package.folder / "model_repository" / "tiny" / "1" / "plans.py")


def made(plans: ModuleType, **changes: Any) -> Any:
    """The plans of an artifact of four steps; changes: of its sampling section and its own keys."""
    usual = {"timesteps": [999, 749, 499, 249], "guidance_scales": [3.0] * 4, "clip_sample": True}
    told = {"solver": "ddim", "timestep_spacing": "trailing", "guidance": 2.0, **usual}
    own = {"guidance_range": None, "grids": [], "num_train_timesteps": TOTAL, "betas": [0.01] * TOTAL}
    told |= {key: value for key, value in changes.items() if key in told}
    return plans.Plans(own | {key: value for key, value in changes.items() if key in own} | {"sampling": told})


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_timesteps_of_every_number_of_steps_are_python_s(plans: ModuleType, spacing: str) -> None:
    known = made(plans, timestep_spacing=spacing)
    for n in (*range(1, 120), 250, 333, 500, 999, TOTAL):
        expected = [999, 749, 499, 249] if n == 4 else sampling.timesteps(n, TOTAL, spacing)
        assert list(known.plan(steps=n).timesteps) == expected, n


@pytest.mark.parametrize(
    "guidance", [2.5, Tag(w_min=1.0, w_max=4.0, beta=8.0), GuidanceInterval(w=3.0, low=0.2, high=0.8)]
)
def test_guidance_over_time_is_python_s_for_other_numbers_of_steps(plans: ModuleType, guidance: Any) -> None:
    plain = guidance if isinstance(guidance, float) else guidance.model_dump()
    known = made(plans, guidance=plain)
    for n in (1, 7, 50):
        expected = sampling.plan(Sampling(num_inference_steps=n, guidance=guidance), TOTAL).weights
        assert np.array_equal(known.plan(steps=n).scales, np.array(expected, np.float32))
    assert known.plan(steps=4).scales.tolist() == known.plan().scales.tolist() == [3.0] * 4  # the manifest's own


def test_one_scale_is_of_all_steps_and_a_list_of_each(plans: ModuleType) -> None:
    known = made(plans)
    assert known.plan(scales=np.array([1.5], np.float32)).scales.tolist() == [1.5] * 4
    assert known.plan(steps=2, scales=np.array([1.5, 0.0], np.float32)).scales.tolist() == [1.5, 0.0]


ONE_BRANCH = {"guidance_range": [0.7, 2.2]}
FEW = {"grids": [[999, 749, 499, 249], [999, 499]], **ONE_BRANCH, "guidance_scales": [2.0] * 4}


@pytest.mark.parametrize(
    ("changes", "asked", "message"),
    [
        ({}, {"steps": 1001}, r"steps is 1001; expected 1 ... 1000, or 0 for the artifact's"),
        ({}, {"steps": -1}, r"steps is -1; expected 1 ... 1000"),
        (FEW, {"steps": 3}, r"steps is 3; this student was trained for 4, 2"),
        ({}, {"solver": "euler"}, r"solver is 'euler'; this student takes ddim or dpmpp_2m"),
        ({}, {"solver": "consistency"}, r"this student takes ddim or dpmpp_2m"),
        (FEW, {"solver": "dpmpp_2m"}, r"this student takes ddim$"),
        (FEW | {"solver": "consistency"}, {"solver": "ddim"}, r"this student takes consistency$"),
        ({}, {"scales": [1.0, 2.0]}, r"one for each of the 4 steps, got shape \[2\]"),
        ({}, {"steps": 2, "scales": [1.0] * 4}, r"one for each of the 2 steps, got shape \[4\]"),
        ({}, {"scales": [np.nan]}, r"guidance must be finite and not negative"),
        ({}, {"scales": [-1.0]}, r"guidance must be finite and not negative"),
        (FEW, {"scales": [2.3]}, r"guidance must be within 0\.7 … 2\.2: the student has one branch"),
        (FEW | {"guidance": 5.0}, {"steps": 2}, r"guidance must be within 0\.7 … 2\.2"),
    ],
)
def test_what_the_artifact_does_not_have_is_refused(
    plans: ModuleType, changes: dict[str, Any], asked: dict[str, Any], message: str
) -> None:
    if "scales" in asked:
        asked = asked | {"scales": np.array(asked["scales"], np.float32)}
    with pytest.raises(ValueError, match=message):
        made(plans, **changes).plan(**asked)


def test_the_ends_of_the_range_and_other_grids_are_taken(plans: ModuleType) -> None:
    known = made(plans, **FEW)
    plan = known.plan(steps=2, scales=np.array([0.7, 2.2], np.float32))
    assert plan.timesteps == (999, 499) and plan.solver == "ddim"
    assert made(plans, **FEW, solver="consistency").plan(steps=2).solver == "consistency"
