"""A network that predicts v or x_0 is the same Denoiser as one that predicts eps."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from torch import nn

from dashdeploy.diffusion import prediction as predictions
from dashdeploy.diffusion import schedule as schedules
from dashdeploy.diffusion.denoiser import Interface, TorchDenoiser
from dashdeploy.errors import UserError

T = (0, 1, 250, 700, 999)
KINDS = get_args(predictions.Prediction)


def draw(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("scheduler", [DDIMScheduler, DDPMScheduler])
@pytest.mark.parametrize("betas", ["linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_with_the_converted_eps_is_the_schedulers_own_step(scheduler, betas: str, kind: str) -> None:
    own = scheduler(beta_schedule=betas, prediction_type=kind, clip_sample=False)
    plain = scheduler(beta_schedule=betas, prediction_type="epsilon", clip_sample=False)
    for each in (own, plain):
        each.set_timesteps(1000)
    x_t, output = draw(1, 2, 4, 4, seed=0), draw(1, 2, 4, 4, seed=1)
    for t in T[1:4]:
        # In float64, so that the two ways differ by what they compute and not by rounding where 1 / √ᾱ is large.
        expected = own.step(output.double(), t, x_t.double(), generator=torch.Generator().manual_seed(2)).prev_sample
        eps = predictions.to_eps(output, x_t, own.alphas_cumprod[[t]], prediction=kind)
        found = plain.step(eps.double(), t, x_t.double(), generator=torch.Generator().manual_seed(2)).prev_sample
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_an_exact_prediction_gives_the_exact_noise_for_each_samples_own_timestep(kind: str) -> None:
    schedule = schedules.from_scheduler_config({}, source="x")
    t = torch.tensor(T)
    x_0, eps = draw(5, 2, 4, 4, seed=0), draw(5, 2, 4, 4, seed=1)
    x_t = schedule.add_noise(x_0, eps, t)
    bar = schedule.alphas_cumprod[t]
    a, s = bar.sqrt().view(-1, 1, 1, 1), (1 - bar).sqrt().view(-1, 1, 1, 1)
    exact = {"epsilon": eps, "v_prediction": a * eps - s * x_0, "sample": x_0}[kind]
    # At t = 0 x_0 is divided by √(1 − ᾱ) = 0.01, and so is its rounding.
    torch.testing.assert_close(predictions.to_eps(exact, x_t, bar, prediction=kind), eps, rtol=1e-4, atol=5e-5)


@pytest.mark.parametrize("kind", ["v_prediction", "sample"])
def test_at_zero_snr_the_image_survives_the_way_through_eps(kind: str) -> None:
    config = {"rescale_betas_zero_snr": True, "prediction_type": kind}
    schedule = schedules.from_scheduler_config(config, source="x")
    bar = schedule.alphas_cumprod[[999]]
    x_0, x_t = draw(1, 2, 4, 4, seed=0), draw(1, 2, 4, 4, seed=1)
    output = x_0 if kind == "sample" else -x_0  # v at ᾱ = 0
    eps = predictions.to_eps(output, x_t, bar, prediction=kind)
    back = (x_t - (1 - bar).sqrt() * eps) / bar.sqrt()
    # float32 rounds eps to 6e-8, and 1 / √ᾱ = 4096.
    torch.testing.assert_close(back, x_0, rtol=1e-2, atol=3e-3)


class Says(nn.Module):
    """Predicts a constant, with twice the channels if it has a variance."""

    def __init__(self, output: torch.Tensor) -> None:
        super().__init__()
        self.output = nn.Parameter(output)

    def forward(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor, return_dict: bool) -> tuple[torch.Tensor]:
        return (self.output.expand(len(x), -1, -1, -1),)


@pytest.mark.parametrize("kind", KINDS)
def test_a_denoiser_returns_eps_whatever_its_network_predicts(kind: str) -> None:
    schedule = schedules.from_scheduler_config({}, source="x")
    output, x = draw(1, 2, 4, 4, seed=0), draw(3, 2, 4, 4, seed=1)
    t, y = torch.tensor([0, 500, 999]), torch.zeros(3, dtype=torch.int64)
    denoiser = TorchDenoiser(Says(output), Interface(1, (2, 4, 4), schedule), prediction=kind)
    expected = predictions.to_eps(output.expand(3, -1, -1, -1), x, schedule.alphas_cumprod[t], prediction=kind)
    torch.testing.assert_close(denoiser(x, t, y), expected, rtol=0, atol=0)
    assert set(denoiser.state_dict()) == {"unet.output"}
    assert denoiser.around(denoiser.unet).prediction == kind


def test_a_learned_variance_is_left_out() -> None:
    schedule = schedules.from_scheduler_config({}, source="x")
    output = draw(1, 4, 4, 4, seed=0)
    denoiser = TorchDenoiser(Says(output), Interface(1, (2, 4, 4), schedule))
    zero = torch.zeros(1, dtype=torch.int64)
    assert torch.equal(denoiser(output[:, :2], zero, zero), output[:, :2])


def test_an_unknown_prediction_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match="'flow' is not supported; expected epsilon, v_prediction, sample"):
        predictions.from_scheduler_config({"prediction_type": "flow"}, source="scheduler_config.json")
