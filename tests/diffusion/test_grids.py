"""The timesteps of few-step students: each number of steps has its own, and a plan takes them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from wave_denoiser import Wave

from dashdeploy.diffusion import sampling
from dashdeploy.diffusion.grids import CLEAN, grids, segments_of
from dashdeploy.errors import UserError
from dashdeploy.recipe.schema import Sampling

FEW = grids((1, 2, 4), 1000)


@pytest.mark.parametrize("steps", [(4,), (1, 2, 4), (4, 2, 1), (8, 4), (1, 2, 3, 4, 6), (32, 1)])
@pytest.mark.parametrize("total", [250, 1000, 4000])
def test_no_timestep_is_in_two_grids_and_each_descends_within_the_schedule(steps: tuple[int, ...], total: int) -> None:
    made = grids(steps, total)
    assert [len(grid) for grid in made] == list(steps)
    every = [t for grid in made for t in grid]
    assert len(set(every)) == len(every) and min(every) >= 0 and max(every) == total - 1
    assert all(list(grid) == sorted(grid, reverse=True) for grid in made)


def test_the_most_steps_begin_at_the_end_of_the_schedule_as_trailing_does_and_fewer_a_little_before() -> None:
    four, two, one = grids((4, 2, 1), 1000)
    assert list(four) == sampling.timesteps(4, 1000, "trailing") == [999, 749, 499, 249]
    assert two == (999 - 15, 499 - 15) and one == (999 - 30,)  # 1000 // 64 = 15
    assert (one, two, four) == FEW


def test_a_step_goes_to_the_next_of_its_own_grid_and_the_last_one_to_clean() -> None:
    assert segments_of(FEW) == [
        *((969, CLEAN), (984, 484), (484, CLEAN)),
        *((999, 749), (749, 499), (499, 249), (249, CLEAN)),
    ]
    assert grids((), 1000) == () and segments_of(()) == []


@pytest.mark.parametrize("total", [16, 37, 250, 999, 1000, 4000])
def test_half_as_many_steps_have_every_second_timestep_and_grids_that_are_not_apart_begin_at_the_end(
    total: int,
) -> None:
    for n in range(1, total // 2 + 1):
        ((fine,), (coarse,)) = grids((2 * n,), total), grids((n,), total)
        assert fine[::2] == coarse
    assert grids((1, 2, 4), total, apart=False) == tuple(grids((n,), total)[0] for n in (1, 2, 4))


@pytest.mark.parametrize(
    ("steps", "total"),
    [
        ((4,), 3),  # two of four are the same
        ((2, 1), 1),
        ((16, 8, 4, 2, 1), 4),
        ((20, 10, 5), 20),  # moved by one, ten steps meet those of twenty
        ((64, 63), 128),  # the last of the second is before clean
    ],
)
def test_too_few_timesteps_for_the_numbers_of_steps_are_refused(steps: tuple[int, ...], total: int) -> None:
    with pytest.raises(UserError, match=rf"distill\.objective\.steps .*: {total} timesteps are too few") as caught:
        grids(steps, total)
    if max(steps) > total:
        with pytest.raises(UserError, match="timesteps are too few"):
            grids(steps, total, apart=False)
    assert str(list(steps)) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_a_plan_takes_the_grid_of_its_number_of_steps_whatever_the_spacing(steps: int) -> None:
    for spacing in ("trailing", "leading", "linspace"):
        asked = Sampling(num_inference_steps=steps, timestep_spacing=spacing, guidance=2.0)
        run = sampling.plan(asked, 1000, grids=FEW)
        assert run.timesteps == next(grid for grid in FEW if len(grid) == steps)
        assert run.weights == (2.0,) * steps
        Wave(grids=FEW).interface.check_plan(run)


def test_other_steps_get_spaced_timesteps_which_the_model_refuses_with_those_that_there_are() -> None:
    run = sampling.plan(Sampling(num_inference_steps=3), 1000, grids=FEW)
    assert list(run.timesteps) == sampling.timesteps(3, 1000, "trailing")
    with pytest.raises(UserError) as caught:
        Wave(grids=FEW).interface.check_plan(run)
    assert str(caught.value) == (
        "3 steps at the timesteps 999, 666, 332: this model was trained for 1, 2 or 4 steps "
        "(timesteps 969; 984, 484; 999, 749, 499, 249)"
    )


def test_the_right_number_of_steps_at_other_timesteps_is_refused_too_and_a_long_list_is_cut() -> None:
    interface = Wave(grids=FEW).interface
    with pytest.raises(UserError, match=r"^2 steps at the timesteps 999, 499: this model was trained for 1, 2 or 4"):
        interface.check_plan(sampling.plan(Sampling(num_inference_steps=2), 1000))
    with pytest.raises(UserError, match=r"^50 steps at the timesteps 999, 979, .*, 859, …: this model"):
        interface.check_plan(sampling.plan(Sampling(num_inference_steps=50), 1000, grids=FEW))


@pytest.mark.parametrize(
    ("steps", "words"), [((4,), "4"), ((1, 4), "1 or 4"), ((1, 2, 4), "1, 2 or 4"), ((8, 4, 2, 1), "8, 4, 2 or 1")]
)
def test_the_numbers_of_steps_are_said_in_words(steps: tuple[int, ...], words: str) -> None:
    assert Wave(grids=grids(steps, 1000)).interface.step_counts == words
    assert Wave().interface.step_counts == "any number of"


def test_another_solver_is_refused_of_a_few_step_model_alone() -> None:
    run = sampling.plan(Sampling(num_inference_steps=4, solver="dpmpp_2m"), 1000, grids=FEW)
    with pytest.raises(UserError, match=r"^solver dpmpp_2m: this model .* Take ddim, and 1, 2 or 4 steps\.$"):
        Wave(grids=FEW).interface.check_plan(run)
    Wave().interface.check_plan(run)


def test_a_scale_out_of_the_range_of_one_branch_is_refused_with_the_range() -> None:
    interface = Wave(branches=1, guidance_range=(1.0, 4.0)).interface
    for w in (1.0, 2.5, 4.0):
        interface.check_plan(sampling.plan(Sampling(num_inference_steps=7), 1000, scale=w))
    for w in (0.5, 4.5):
        with pytest.raises(UserError) as caught:
            interface.check_plan(sampling.plan(Sampling(num_inference_steps=7), 1000, scale=w))
        assert str(caught.value) == (
            f"guidance {w:g} is out of range: this model has one branch, which was trained for 1 … 4"
        )
    Wave().interface.check_plan(sampling.plan(Sampling(num_inference_steps=7), 1000, scale=0.5))


@pytest.mark.parametrize("solver", sampling.SOLVERS)
def test_every_sampler_looks_at_the_plan_before_it_calls_the_model(solver: str) -> None:
    model = Wave(branches=1, guidance_range=(1.0, 4.0))
    run = replace(sampling.plan(Sampling(num_inference_steps=3), 1000, scale=5.0), solver=solver)
    with pytest.raises(UserError, match="guidance 5 is out of range"):
        sampling.SOLVERS[solver](model, torch.zeros(1, 1, 4, 4), torch.tensor([0]), run)
    assert (model.single, model.double) == (0, 0)
