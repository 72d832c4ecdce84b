from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from diffusers import DDIMScheduler
from wave_denoiser import SCHEDULE, ZERO_SNR, Wave

from dashdeploy.diffusion import pixels, sampling
from dashdeploy.diffusion import schedule as schedules
from dashdeploy.errors import UserError
from dashdeploy.recipe.schema import Prediction, Sampling, Solver, Tag


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

    theirs = DDIMScheduler.from_config({**SCHEDULE.scheduler_config(clip_sample=clip), "timestep_spacing": spacing})
    theirs.set_timesteps(steps)
    assert list(run.timesteps) == theirs.timesteps.tolist()
    x, model = noise, Wave()
    for i, t in enumerate(theirs.timesteps):
        eps = model.guided(x, t.expand(2), y, torch.full((2,), 2.5))
        if spacing == "linspace":
            # diffusers steps by T // N whatever the spacing; ours goes to the next timestep of the list.
            now = theirs.alphas_cumprod[t]
            after = theirs.alphas_cumprod[theirs.timesteps[i + 1]] if i + 1 < steps else torch.tensor(1.0)
            x = sampling.ddim_step(x, eps, now, after, clip_sample=clip, prediction="epsilon")
        elif spacing == "trailing" and 1000 % steps:
            now = theirs.alphas_cumprod[t]
            after = theirs.alphas_cumprod[theirs.timesteps[i + 1]] if i + 1 < steps else torch.tensor(1.0)
            x = sampling.ddim_step(x, eps, now, after, clip_sample=clip, prediction="epsilon")
        else:
            x = theirs.step(eps, t, x, eta=0.0, use_clipped_model_output=clip).prev_sample
    assert (ours.abs().max() <= 1) == clip  # only the predicted x_0 is clipped, and the last step gives it
    torch.testing.assert_close(ours, x, rtol=1e-3, atol=2e-3)


def test_one_step_agrees_with_the_formula_in_float64() -> None:
    generator = torch.Generator().manual_seed(1)
    x, eps = (torch.randn(1, 1, 2, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    now, after = torch.tensor(0.3, dtype=torch.float64), torch.tensor(0.6, dtype=torch.float64)
    x_0 = ((x - (1 - now).sqrt() * eps) / now.sqrt()).clamp(-1, 1)
    eps_again = (x - now.sqrt() * x_0) / (1 - now).sqrt()
    expected = after.sqrt() * x_0 + (1 - after).sqrt() * eps_again
    found = sampling.ddim_step(x, eps, now, after, clip_sample=True, prediction="epsilon")
    torch.testing.assert_close(found, expected)


PREDICTS = ("v_prediction", "sample")


@pytest.mark.parametrize("kind", PREDICTS)
@pytest.mark.parametrize("clip", [True, False])
def test_one_step_of_v_or_x_0_agrees_with_the_formula_in_float64(kind: Prediction, clip: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    x, output = (torch.randn(1, 1, 4, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    now, after = torch.tensor(0.3, dtype=torch.float64), torch.tensor(0.6, dtype=torch.float64)
    x_0 = output if kind == "sample" else now.sqrt() * x - (1 - now).sqrt() * output
    x_0 = x_0.clamp(-1, 1) if clip else x_0
    expected = after.sqrt() * x_0 + (1 - after).sqrt() * (x - now.sqrt() * x_0) / (1 - now).sqrt()
    found = sampling.ddim_step(x, output, now, after, clip_sample=clip, prediction=kind)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("kind", PREDICTS)
@pytest.mark.parametrize("zero_snr", [True, False])
@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("steps", [1, 4, 50])
def test_ddim_of_v_or_x_0_is_diffusers_own_with_zero_terminal_snr_too(
    kind: Prediction, zero_snr: bool, clip: bool, steps: int
) -> None:
    asked = {"prediction_type": kind, "rescale_betas_zero_snr": zero_snr, "clip_sample": clip}
    theirs = DDIMScheduler(timestep_spacing="trailing", **asked)
    theirs.set_timesteps(steps)
    schedule = schedules.from_scheduler_config(dict(theirs.config), source="x")
    model = Wave(prediction=kind, schedule=schedule)
    noise, y = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 2])
    run = sampling.plan(Sampling(num_inference_steps=steps, clip_sample=clip, guidance=2.5), 1000)
    assert list(run.timesteps) == theirs.timesteps.tolist()
    assert (float(schedule.alphas_cumprod[run.timesteps[0]]) == 0) == zero_snr
    x = noise
    for t in theirs.timesteps:
        output = model.guided(x, t.expand(2), y, torch.full((2,), 2.5))
        x = theirs.step(output, t, x, eta=0.0, use_clipped_model_output=clip).prev_sample
    # diffusers computes its table of ᾱ in float32.
    torch.testing.assert_close(sampling.ddim(model, noise, y, run), x, rtol=1e-3, atol=1e-3)


def test_eps_has_no_schedule_with_zero_terminal_snr() -> None:
    with pytest.raises(UserError, match="alphas_cumprod is 0 at the last timestep, and the model predicts epsilon"):
        Wave(schedule=ZERO_SNR)


@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m"])
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


NOISE = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
NAN = NOISE.clone()
NAN[1, 0, 2, 3] = torch.nan


@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m"])
@pytest.mark.parametrize(
    ("noise", "labels", "message"),
    [
        (
            NOISE,
            torch.tensor([0, 3]),
            r"class index 3 is out of range: this model has classes 0\.\.2",
        ),  # K: the null class
        (NOISE, torch.tensor([-1, 0]), r"class index -1 is out of range.*0\.\.2"),
        (NOISE, torch.tensor([0.0, 1.0]), r"labels must be class indices.*got \(2,\) float32"),
        (NOISE, torch.tensor([[0, 1]]), r"labels must be.*\(B,\) int64; got \(1, 2\)"),
        (NOISE[:0], torch.zeros(0, dtype=torch.int64), "labels must be class indices, one or more"),
        (NOISE, torch.tensor([0]), r"noise must be \(1, 1, 4, 4\) float32 for 1 labels; got \(2, 1, 4, 4\)"),
        (NOISE[..., :3], torch.tensor([0, 1]), r"noise must be \(2, 1, 4, 4\).*got \(2, 1, 4, 3\)"),
        (NOISE.half(), torch.tensor([0, 1]), "got .* float16"),
        (NAN, torch.tensor([0, 1]), "noise holds NaN or Inf"),
    ],
)
def test_what_no_sampler_can_start_from_is_refused(
    solver: Solver, noise: torch.Tensor, labels: torch.Tensor, message: str
) -> None:
    model = Wave()
    run = sampling.plan(Sampling(num_inference_steps=3, solver=solver), 1000)
    with pytest.raises(UserError, match=message):
        sampling.SOLVERS[solver](model, noise, labels, run)
    assert (model.single, model.double) == (0, 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": (2.0, 2.0)}, "2 guidance scales for 3 steps"),
        ({"weights": (2.0, float("nan"), 2.0)}, "guidance must be a number from 0 to 1e.06.*not nan"),
        ({"weights": (2.0, -1.0, 2.0)}, "not -1"),
        ({"weights": (1e300, 2.0, 2.0)}, "not 1e"),
        ({"timesteps": (999, 999, 333)}, "must descend"),
        ({"timesteps": (), "weights": ()}, "must descend"),
        ({"end": 333}, "must descend"),
    ],
)
def test_a_plan_that_makes_no_sense_cannot_be_made(changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        replace(sampling.plan(Sampling(num_inference_steps=3), 1000), **changes)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("guidance", [1.0, 2.0])
@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m"])
def test_a_step_that_is_not_finite_is_an_error_that_names_the_first(
    solver: Solver, guidance: float, value: float
) -> None:
    class Diverges(Wave):
        """From t = 599 on, and in one pixel of one image; clipping alone would hide Inf."""

        def eps(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            eps = super().eps(x, t, y)
            if int(t[0]) < 600:
                eps[-1, 0, 1, 2] = value
            return eps

    run = sampling.plan(Sampling(num_inference_steps=5, solver=solver, guidance=guidance), 1000)
    with pytest.raises(UserError, match=rf"^step 3 of 5 \(t = 599, w = {guidance:g}\): the network gave NaN or Inf"):
        sampling.SOLVERS[solver](Diverges(), NOISE, torch.tensor([0, 1]), run)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"seed": -1}, "seed"), ({"seed": 2**64}, "seed"), ({"batch_size": 0}, "batch_size"), ({"batch_size": -3}, "b")],
)
def test_a_seed_or_batch_size_out_of_range_is_refused(changes: dict, message: str) -> None:
    run = sampling.plan(Sampling(num_inference_steps=1), 1000)
    asked = {"labels": torch.tensor([0]), "seed": 0, "batch_size": 1, **changes}
    with pytest.raises(UserError, match=message):
        sampling.generate(partial(sampling.ddim, Wave()), Wave().interface, run, **asked)


@pytest.mark.parametrize(("latents", "channels"), [(True, 3), (False, 4), (False, 2)])
def test_no_images_are_promised_of_latents(latents: bool, channels: int) -> None:
    interface = replace(Wave.interface, latents=latents, image_shape=(channels, 4, 4))
    run = sampling.plan(Sampling(num_inference_steps=1, clip_sample=False), 1000)

    class Latents(Wave):
        pass

    Latents.interface = interface
    sample = partial(sampling.ddim, Latents())
    labels = torch.tensor([0, 1, 2])
    with pytest.raises(UserError, match=rf"makes latents \({channels}, 4, 4\).*not images"):
        sampling.generate(sample, interface, run, labels=labels, seed=0, batch_size=2)
    drawn = torch.cat(list(sampling.draw(sample, interface, run, labels=labels, seed=0, batch_size=2)))
    assert drawn.shape == (3, channels, 4, 4)
    assert float(drawn.abs().max()) > 1.5  # nothing is clipped to an image's range


def test_more_steps_than_timesteps_are_refused() -> None:
    with pytest.raises(UserError, match="exceeds the 10 timesteps"):
        sampling.timesteps(11, 10, "trailing")


def test_uint8_rounds_to_nearest() -> None:
    values = torch.tensor([-1.0, 1.0, 0.0, -1.0 + 0.9 / 127.5, 2.0])
    assert pixels.to_uint8(values).tolist() == [0, 255, 128, 1, 255]
