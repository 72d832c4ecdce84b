"""DPM-Solver++(2M): its order against a closed form, its steps against diffusers, and what it shares with DDIM."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from wave_denoiser import SCHEDULE, ZERO_SNR, Wave

from dashdeploy.diffusion import sampling
from dashdeploy.diffusion.denoiser import Interface
from dashdeploy.diffusion.sampling import Plan, ddim, dpmpp_2m
from dashdeploy.diffusion.schedule import NoiseSchedule, zero_terminal_snr
from dashdeploy.recipe.schema import GuidanceInterval, Sampling, Solver

MEAN, STD = 0.3, 0.1
FIRST, LAST = 6400, 400
FINE = NoiseSchedule(np.linspace(1e-4, 0.02, FIRST + 1) * 1000 / (FIRST + 1))
"""The usual schedule on so many timesteps that FIRST … LAST can be cut into equal parts."""


class Gaussian(Wave):
    """The best denoiser of data ~ N(MEAN, STD²): eps = σ·(x − α·MEAN)/(α²·STD² + σ²), float64."""

    interface = Interface(num_classes=3, image_shape=(1, 1, 64), schedule=FINE)

    def eps(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        alpha, sigma = scales(int(t[0]))
        return sigma * (x - alpha * MEAN) / (alpha**2 * STD**2 + sigma**2)


def scales(t: int) -> tuple[float, float]:
    bar = float(FINE.alphas_cumprod[t].double())
    return bar**0.5, (1 - bar) ** 0.5


def exact(noise: torch.Tensor) -> torch.Tensor:
    """The probability flow keeps x in its place in the marginal N(α·MEAN, α²·STD² + σ²): from FIRST to LAST."""
    (a, s), (b, r) = scales(FIRST), scales(LAST)
    place = (noise - a * MEAN) / (a**2 * STD**2 + s**2) ** 0.5
    return b * MEAN + (b**2 * STD**2 + r**2) ** 0.5 * place


def error(solver: Solver, num_steps: int) -> float:
    """Largest error at LAST, which is not clean: the step to the clean image is of first order in any solver."""
    steps = tuple(range(FIRST, LAST, -(FIRST - LAST) // num_steps))
    run = Plan(steps, (1.0,) * num_steps, clip_sample=False, solver=solver, end=LAST)
    noise = torch.linspace(-1.5, 1.5, 64, dtype=torch.float64).view(1, 1, 1, 64)
    found = sampling.SOLVERS[solver](Gaussian(), noise, torch.tensor([0]), run)
    assert found.dtype == torch.float64
    return float((found - exact(noise)).abs().max())


@pytest.mark.parametrize(("solver", "order"), [("ddim", 1), ("dpmpp_2m", 2)])
def test_the_error_falls_with_the_order_of_the_solver(solver: Solver, order: int) -> None:
    errors = [error(solver, n) for n in (60, 120, 240)]
    # From N to 2N steps an error c·N⁻ᵖ·(1 + O(1/N)) falls 2ᵖ times; the rest is worth 0.05 at N = 60.
    assert np.log2(np.array(errors[:-1]) / errors[1:]) == pytest.approx(order, abs=0.12)


class GaussianV(Gaussian):
    """The same, of v = α·eps − σ·x_0 and with zero SNR at its end; x_0 is MEAN where α is 0."""

    def __init__(self, schedule: NoiseSchedule) -> None:
        super().__init__(prediction="v_prediction", schedule=schedule)

    def eps(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        bar = self.interface.schedule.alphas_cumprod[int(t[0])].double()
        alpha, sigma = bar.sqrt(), (1 - bar).sqrt()
        offset = (x - alpha * MEAN) / (alpha**2 * STD**2 + sigma**2)
        x_0, eps = MEAN + alpha * STD**2 * offset, sigma * offset
        return alpha * eps - sigma * x_0


def test_from_zero_snr_it_converges_to_what_ddim_converges_to() -> None:
    schedule = NoiseSchedule(zero_terminal_snr(np.linspace(1e-4, 0.02, 1000)))
    model = GaussianV(schedule)
    noise = torch.linspace(-1.5, 1.5, 64, dtype=torch.float64).view(1, 1, 1, 64)
    # The flow keeps each value in its place in the marginal, which at zero SNR is that of the noise.
    wanted = MEAN + STD * noise

    def error(solver: Solver, steps: int) -> float:
        run = sampling.plan(Sampling(num_inference_steps=steps, clip_sample=False, solver=solver), 1000, scale=1.0)
        assert float(schedule.alphas_cumprod[run.timesteps[0]]) == 0
        found = sampling.SOLVERS[solver](model, noise, torch.tensor([0]), run)
        assert found.isfinite().all()
        return float((found - wanted).abs().max())

    # DDIM's error is of first order, 2.5 / N of a standard deviation of 0.1; the other's falls faster, from less.
    assert error("ddim", 1000) < 3e-3 and error("dpmpp_2m", 1000) < 1e-3
    assert error("dpmpp_2m", 200) < error("ddim", 200) / 2


@pytest.mark.parametrize("kind", ["v_prediction", "sample"])
@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("clip", [True, False])
def test_the_step_from_zero_snr_is_ddims_and_the_next_is_of_first_order(kind: str, steps: int, clip: bool) -> None:
    model = Wave(prediction=kind, schedule=ZERO_SNR)
    run = sampling.plan(Sampling(num_inference_steps=steps, clip_sample=clip, guidance=2.5), 1000)
    # The steps that are of first order from zero SNR: the first and the one after it; and the last one to clean.
    run = replace(run, timesteps=run.timesteps[:2], weights=run.weights[:2], end=run.timesteps[2] if steps > 2 else -1)
    noise, y = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 1, 2])
    found = dpmpp_2m(model, noise, y, replace(run, solver="dpmpp_2m"))
    torch.testing.assert_close(found, ddim(model, noise, y, run), rtol=1e-5, atol=1e-5)


def test_few_steps_of_second_order_are_worth_many_of_first() -> None:
    assert error("dpmpp_2m", 20) < error("ddim", 60)


@pytest.mark.parametrize("steps", [2, 3, 10, 20, 50])
@pytest.mark.parametrize("clip", [True, False])
def test_every_step_is_diffusers(steps: int, clip: bool) -> None:
    run = sampling.plan(Sampling(num_inference_steps=steps, clip_sample=clip, guidance=2.5, solver="dpmpp_2m"), 1000)
    theirs = DPMSolverMultistepScheduler(
        trained_betas=SCHEDULE.betas.tolist(),
        algorithm_type="dpmsolver++",
        solver_order=2,
        solver_type="midpoint",
        timestep_spacing="trailing",
        final_sigmas_type="zero",
        thresholding=clip,  # to a largest value of 1 it is clipping, whatever the quantile
        sample_max_value=1.0,
    )
    theirs.set_timesteps(steps)
    assert theirs.timesteps.tolist() == list(run.timesteps)
    noise, y = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 2])
    model, x, states = Recorded(), noise, []
    for t in theirs.timesteps:
        states.append(x)
        x = theirs.step(model.guided(x, t.expand(2), y, torch.full((2,), 2.5)), t, x).prev_sample
    ours = Recorded()
    images = dpmpp_2m(ours, noise, y, run)
    # Each state on its own scale: unclipped, x_0 of the first steps is some hundreds.
    for found, expected in zip([*ours.states, images], [*states, x], strict=True):
        assert float((found - expected).abs().max() / expected.abs().max()) < 1e-4


class Recorded(Wave):
    """Remembers every x_t. A tenth of Wave: smooth enough that rounding does not grow from step to step."""

    def __init__(self) -> None:
        super().__init__()
        self.states: list[torch.Tensor] = []

    def eps(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x / 2 + super().eps(x, t, y) / 10

    def guided(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        self.states.append(x)
        return super().guided(x, t, y, w)


def draw(run: Plan, size: int = 3) -> torch.Tensor:
    noise = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    return sampling.SOLVERS[run.solver](Wave(), noise[:size], torch.tensor([0, 1, 2])[:size], run)


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("clip", [True, False])
def test_the_first_step_and_the_one_to_the_clean_image_are_ddims(steps: int, clip: bool) -> None:
    run = sampling.plan(Sampling(num_inference_steps=steps, clip_sample=clip), 1000)
    # The same update written in two ways: apart by float32 rounding.
    torch.testing.assert_close(draw(replace(run, solver="dpmpp_2m")), draw(run), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(
        draw(sampling.plan(Sampling(num_inference_steps=3, solver="dpmpp_2m"), 1000)),
        draw(sampling.plan(Sampling(num_inference_steps=3), 1000)),
    )


def test_steps_without_guidance_run_the_conditional_branch_alone_and_progress_is_told() -> None:
    model, told = Wave(), []
    scale = GuidanceInterval(w=3, low=0.3, high=0.7)
    run = sampling.plan(Sampling(num_inference_steps=10, solver="dpmpp_2m"), 1000, scale=scale)
    dpmpp_2m(model, torch.zeros(1, 1, 4, 4), torch.tensor([0]), run, on_step=told.append)
    assert (model.single, model.double) == (run.weights.count(1.0), 10 - run.weights.count(1.0)) == (6, 4)
    assert told == list(range(10))


def test_an_image_does_not_depend_on_its_batch() -> None:
    run = sampling.plan(Sampling(num_inference_steps=5, solver="dpmpp_2m"), 1000)
    assert torch.equal(draw(run)[:1], draw(run, 1))


def test_every_image_starts_and_ends_at_the_same_timesteps_whatever_the_solver() -> None:
    both = [sampling.plan(Sampling(num_inference_steps=7, solver=solver), 1000) for solver in ("ddim", "dpmpp_2m")]
    assert len({tuple(run.steps()) for run in both}) == 1
    assert [run.solver for run in both] == ["ddim", "dpmpp_2m"]


@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m"])
def test_host_loops_run_the_plans_solver(solver: Solver) -> None:
    run = sampling.plan(Sampling(num_inference_steps=5, solver=solver), 1000)
    noise, y = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 1, 2])
    expected = {"ddim": ddim, "dpmpp_2m": dpmpp_2m}[solver](Wave(), noise, y, run)
    assert torch.equal(draw(run), expected)
