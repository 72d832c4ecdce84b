from __future__ import annotations

from functools import partial

import pytest
import torch
from diffusers import DDIMScheduler
from wave_denoiser import SCHEDULE, Wave

from dashdeploy.diffusion import sampling
from dashdeploy.errors import UserError
from dashdeploy.recipe.schema import Sampling, Solver, Tag


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("steps", [7, 50])
def test_ddim_is_diffusers_ddim_with_eps_recomputed_after_clipping(spacing: str, clip: bool, steps: int) -> None:
    noise = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    y = torch.tensor([0, 2])
    run = sampling.plan(
        Sampling(num_inference_steps=steps, timestep_spacing=spacing, clip_sample=clip, guidance=2.5), 1000
    )
    ours = sampling.ddim(Wave(), noise, y, run)

    theirs = DDIMScheduler.from_config(
        {**SCHEDULE.scheduler_config(), "timestep_spacing": spacing, "clip_sample": clip}
    )
    theirs.set_timesteps(steps)
    assert list(run.timesteps) == theirs.timesteps.tolist()
    x, model = noise, Wave()
    for i, t in enumerate(theirs.timesteps):
        eps = model.guided(x, t.expand(2), y, torch.full((2,), 2.5))
        if spacing == "linspace":
            # diffusers steps by T // N whatever the spacing; ours goes to the next timestep of the list.
            now = theirs.alphas_cumprod[t]
            after = theirs.alphas_cumprod[theirs.timesteps[i + 1]] if i + 1 < steps else torch.tensor(1.0)
            x = sampling.ddim_step(x, eps, now, after, clip_sample=clip)
        elif spacing == "trailing" and 1000 % steps:
            now = theirs.alphas_cumprod[t]
            after = theirs.alphas_cumprod[theirs.timesteps[i + 1]] if i + 1 < steps else torch.tensor(1.0)
            x = sampling.ddim_step(x, eps, now, after, clip_sample=clip)
        else:
            x = theirs.step(eps, t, x, eta=0.0, use_clipped_model_output=clip).prev_sample
    torch.testing.assert_close(ours, x.clamp(-1, 1), rtol=1e-3, atol=2e-3)


def test_one_step_agrees_with_the_formula_in_float64() -> None:
    generator = torch.Generator().manual_seed(1)
    x, eps = (torch.randn(1, 1, 2, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    now, after = torch.tensor(0.3, dtype=torch.float64), torch.tensor(0.6, dtype=torch.float64)
    x_0 = ((x - (1 - now).sqrt() * eps) / now.sqrt()).clamp(-1, 1)
    eps_again = (x - now.sqrt() * x_0) / (1 - now).sqrt()
    expected = after.sqrt() * x_0 + (1 - after).sqrt() * eps_again
    torch.testing.assert_close(sampling.ddim_step(x, eps, now, after, clip_sample=True), expected)


@pytest.mark.parametrize("solver", sampling.SOLVERS)
def test_a_perfect_denoiser_returns_the_image_in_any_number_of_steps(solver: Solver) -> None:
    image = torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(2)) * 2 - 1

    class Perfect(Wave):
        def eps(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            bar = SCHEDULE.alphas_cumprod[t].view(-1, 1, 1, 1)
            return (x - bar.sqrt() * image) / (1 - bar).sqrt()

    noise = torch.randn(1, 1, 4, 4, generator=torch.Generator().manual_seed(3))
    for steps in (1, 5, 50):
        run = sampling.plan(Sampling(num_inference_steps=steps, guidance=3.0, solver=solver), 1000)
        drawn = sampling.SOLVERS[solver](Perfect(), noise, torch.tensor([0]), run)
        torch.testing.assert_close(drawn, image, rtol=0, atol=1e-4)


def test_the_steps_of_a_plan_meet_and_end_at_the_clean_image() -> None:
    tag = sampling.plan(Sampling(num_inference_steps=4, guidance=Tag()), 1000)
    steps = list(tag.steps())
    assert [(s.t, s.t_prev) for s in steps] == [(999, 749), (749, 499), (499, 249), (249, sampling.CLEAN)]
    assert [s.w for s in steps] == list(tag.weights) == sorted(tag.weights)


def test_guidance_off_runs_the_conditional_branch_alone() -> None:
    model = Wave()
    noise = torch.zeros(1, 1, 4, 4)
    sampling.ddim(model, noise, torch.tensor([0]), sampling.plan(Sampling(num_inference_steps=5), 1000, scale=1.0))
    assert (model.single, model.double) == (5, 0)


def test_images_do_not_depend_on_what_else_is_sampled_before_or_after() -> None:
    run = sampling.plan(Sampling(num_inference_steps=3), 1000)
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    whole = sampling.generate(
        partial(sampling.ddim, Wave()), Wave().interface, run, labels=labels, seed=5, batch_size=2
    )
    part = sampling.generate(
        partial(sampling.ddim, Wave()), Wave().interface, run, labels=labels[:4], seed=5, batch_size=3
    )
    assert torch.equal(whole[:4], part)
    assert whole.dtype == torch.uint8
    assert not torch.equal(
        whole,
        sampling.generate(partial(sampling.ddim, Wave()), Wave().interface, run, labels=labels, seed=6, batch_size=2),
    )


@pytest.mark.parametrize("label", [3, -1])
def test_a_class_index_out_of_range_is_refused_with_the_range(label: int) -> None:
    run = sampling.plan(Sampling(num_inference_steps=3), 1000)
    with pytest.raises(UserError, match=rf"class index {label} is out of range.*0\.\.2"):
        sampling.generate(
            partial(sampling.ddim, Wave()), Wave().interface, run, labels=torch.tensor([0, label]), seed=0, batch_size=2
        )


def test_more_steps_than_timesteps_are_refused() -> None:
    with pytest.raises(UserError, match="exceeds the 10 timesteps"):
        sampling.timesteps(11, 10, "trailing")


def test_uint8_rounds_to_nearest() -> None:
    values = torch.tensor([-1.0, 1.0, 0.0, -1.0 + 0.9 / 127.5, 2.0])
    assert sampling.to_uint8(values).tolist() == [0, 255, 128, 1, 255]
