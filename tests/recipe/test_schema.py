"""What a recipe of a student of one branch or of few steps may say, and each contradiction with its line and key."""

from __future__ import annotations

import pytest

from dashdeploy.errors import UserError
from dashdeploy.recipe.load import load_text
from dashdeploy.recipe.schema import Recipe, extremes

FEW = """name: x
teacher: {path: there}
student: {compression: 4, branches: 1, prediction_type: v_prediction}
distill: {objective: {kind: segments, steps: [4, 2]}}
sampling: {num_inference_steps: 4, guidance: 2.0}
bench: {quality: {guidance: [1.0, 2.0, 4.0]}}
"""
PROGRESSIVE = FEW.replace("{kind: segments, steps: [4, 2]}", "{kind: progressive}, steps: 900")
CONSISTENCY = FEW.replace("segments", "consistency").replace("guidance: 2.0", "guidance: 2.0, solver: consistency")
GUIDED = FEW.replace("{kind: segments, steps: [4, 2]}", "{kind: guided}").replace("steps: 4", "steps: 50")


def load(text: str, *overrides: str) -> Recipe:
    return load_text(text, name="x.yaml", overrides=overrides)


def problem(text: str, *overrides: str) -> str:
    """The one problem of a recipe, without the file's name."""
    with pytest.raises(UserError) as caught:
        load(text, *overrides)
    first, *lines = str(caught.value).split("\n")
    assert first == "x.yaml: 1 problem" and len(lines) == 1
    return lines[0].strip()


@pytest.mark.parametrize("text", [FEW, GUIDED, PROGRESSIVE, CONSISTENCY])
def test_a_recipe_of_one_branch_is_read(text: str) -> None:
    recipe = load(text)
    assert recipe.student.branches == recipe.distill.objective.branches == 1
    assert recipe.student.prediction_type == "v_prediction"
    assert recipe.distill.objective.guidance_range == (1.0, 4.0)


@pytest.mark.parametrize(
    "overrides",
    [
        ("sampling.num_inference_steps=2",),
        ("student.prediction_type=sample",),
        ("student.prediction_type=null",),  # what its teacher predicts is known when it is opened
        ("student.init={kind: run, path: there}",),
        ("student.init.kind=pruned",),
        ("distill.teacher_bank=100",),
        ("sampling.guidance={kind: tag, w_min: 1, w_max: 4}",),
        ("sampling.guidance={kind: interval, w: 4}",),
        ("distill.objective.w_max=8", "sampling.guidance=8", "bench.quality.guidance=[8]"),
        ("distill.objective.w_min=0", "sampling.guidance=0"),
    ],
)
def test_what_goes_with_few_steps_is_taken(overrides: tuple[str, ...]) -> None:
    assert load(FEW, *overrides).student.branches == 1


@pytest.mark.parametrize(
    ("text", "overrides", "expected"),
    [
        (
            FEW,
            ("student.prediction_type=epsilon",),
            "segments trains for few steps, and student.prediction_type is eps",
        ),
        (FEW, ("sampling.num_inference_steps=3",), "num_inference_steps is 3, and distill.objective trains for 4 or 2"),
        (
            FEW,
            ("distill.objective.steps=[8]",),
            "sampling.num_inference_steps is 4, and distill.objective trains for 8:",
        ),
        (FEW, ("sampling.solver=dpmpp_2m",), "sampling.solver dpmpp_2m: a student of segments samples by ddim"),
        (FEW, ("distill.timesteps=sampling",), "distill.timesteps sampling: segments draws t from its own timesteps"),
        (
            FEW,
            ("student.branches=2",),
            "segments trains a student of one branch, and student.branches is 2: set it to 1",
        ),
        (
            GUIDED,
            ("student.branches=2",),
            "guided trains a student of one branch, and student.branches is 2: set it to",
        ),
        (
            GUIDED,
            ("distill.objective={kind: dash}",),
            "dash trains a student of two branches, and student.branches is 1",
        ),
        (GUIDED, ("distill.objective={kind: scratch}",), "scratch trains a student of two branches, and"),
        (
            GUIDED,
            ("sampling.guidance=4.5",),
            "sampling.guidance asks for w = 4.5, and distill.objective trains one branch",
        ),
        (
            GUIDED,
            ("sampling.guidance=0.5",),
            "sampling.guidance asks for w = 0.5, and distill.objective trains one branch",
        ),
        (GUIDED, ("sampling.guidance={kind: tag, w_max: 5}",), "sampling.guidance asks for w = 5"),
        (GUIDED, ("distill.objective.w_min=1.5", "bench.quality.guidance=[2]"), None),
        (
            GUIDED,
            ("distill.objective.w_min=1.5", "bench.quality.guidance=[2]", "sampling.guidance={kind: interval, w: 2}"),
            "sampling.guidance asks for w = 1, and distill.objective trains one branch for 1.5 … 4",
        ),
        (GUIDED, ("bench.quality.guidance=[1, 2, 6]",), "asks for w = 6, and distill.objective trains one branch for"),
        (GUIDED, ("distill.objective.w_max=3",), "one branch for 1 … 3; set it to [1, 2]"),
        (GUIDED, ("distill.objective.w_max=3", "bench.quality.guidance=[1, 2]"), None),
        *(
            (
                FEW,
                (f"distill.timestep_weights.kind={kind}",),
                f"kind {kind} goes to 0 with the SNR, so",
            )
            for kind in ("published", "tirt", "min_snr_x0", "min_snr_v")
        ),
        (FEW, ("distill.timestep_weights.kind=min_snr_eps",), None),
        (GUIDED, ("distill.timestep_weights.kind=min_snr_v",), None),
        (
            PROGRESSIVE,
            ("distill.steps=1000",),
            "steps 1000 does not divide into the 3 phases of progressive: take a mul",
        ),
        (
            PROGRESSIVE,
            ("distill.warmup_steps=301",),
            "warmup_steps 301 exceeds the 300 steps of each phase of progressive; set it lower",
        ),
        (PROGRESSIVE, ("distill.warmup_steps=300",), None),
        (PROGRESSIVE, ("sampling.num_inference_steps=8",), "is 8, and distill.objective trains for 4: set it to one"),
        (PROGRESSIVE, ("sampling.solver=consistency",), "a student of progressive samples by ddim"),
        (
            CONSISTENCY,
            ("sampling.solver=ddim",),
            "ddim: a student of consistency samples by consistency",
        ),
        (CONSISTENCY, ("sampling.num_inference_steps=3",), "is 3, and distill.objective trains for 4 or 2"),
        (CONSISTENCY, ("distill.timesteps=sampling",), "consistency draws t from its own timesteps"),
        (
            CONSISTENCY,
            ("student.prediction_type=epsilon",),
            "consistency trains for few steps, and student.prediction_",
        ),
        (CONSISTENCY, ("distill.objective.w_max=1.5", "sampling.guidance=1"), "bench.quality.guidance asks for w = 2"),
        (GUIDED, ("sampling.solver=consistency",), "consistency: a student of guided samples by ddim"),
        (GUIDED, ("bench.quality.guidance=[2, {kind: tag, w_min: 0.5}]",), "bench.quality.guidance asks for w = 0.5"),
    ],
)
def test_what_contradicts_one_branch_or_few_steps_is_one_problem(
    text: str, overrides: tuple[str, ...], expected: str | None
) -> None:
    if expected is None:
        assert load(text, *overrides).student.branches == 1
    else:
        assert expected in problem(text, *overrides)


def test_two_branches_take_any_scale_any_solver_and_any_steps() -> None:
    plain = "name: x\nteacher: {path: there}\nstudent: {compression: 4}\n"
    recipe = load(
        plain, "sampling={guidance: 9, num_inference_steps: 3, solver: dpmpp_2m}", "distill.timesteps=sampling"
    )
    assert recipe.student.branches == 2 and recipe.student.prediction_type is None
    assert load(plain, "student.prediction_type=epsilon").student.prediction_type == "epsilon"


def test_the_extremes_of_a_guidance_are_all_the_scales_that_it_takes() -> None:
    def of(guidance: str) -> tuple[float, ...]:
        return extremes(
            load(FEW.replace("2.0}", f"{guidance}}}"), "distill.objective={kind: guided, w_min: 0}").sampling.guidance
        )

    assert of("2.5") == (2.5,)
    assert of("{kind: tag, w_min: 1.5, w_max: 3}") == (1.5, 3)
    assert of("{kind: interval, w: 3}") == (1.0, 3)
    assert of("{kind: interval, w: 3, low: 0, high: 1}") == (3,)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (
            "student.prediction_type=v",
            ": must be 'epsilon', 'v_prediction' or 'sample', got 'v'",
        ),
        ("student.branches=3", ": must be 2 or 1, got 3"),
        ("student.init={kind: run}", "student.init.path: required key is missing"),
        ("bench.teacher_steps=0", ": must be ≥ 1, got 0"),
        ("distill.objective={kind: segments, steps: []}", "distill.objective.steps"),
        ("distill.objective={kind: segments, teacher_step: 3}", "did you mean 'teacher_steps'?"),
    ],
)
def test_a_value_that_cannot_be_is_told_with_the_choices(override: str, expected: str) -> None:
    assert expected in problem(FEW, override)
