"""Networks may predict eps, v or x_0: what each says of the image and its noise, against closed forms in float64."""

from __future__ import annotations

from itertools import product
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
EXACT = 1e-6
"""Of values of size 1 to 4 in float32, which rounds them to 2.4e-7, after a few operations."""
BARS = (1e-8, 1e-6, 1e-4, 0.01, 0.3, 0.9, 0.9999, 1 - 1e-6)


def draw(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def pair(alpha_bar: torch.Tensor) -> dict[str, torch.Tensor]:
    """An image, its noise, x_t and v in float64, for each ᾱ (B, 1, 1, 1): by the definitions alone."""
    bar, shape = alpha_bar.double(), (len(alpha_bar), 2, 4, 4)
    x_0, eps = draw(*shape, seed=0).clamp(-1, 1).double(), draw(*shape, seed=1).double()
    a, s = bar.sqrt(), (1 - bar).sqrt()
    return {"sample": x_0, "epsilon": eps, "x_t": a * x_0 + s * eps, "v_prediction": a * eps - s * x_0}


def bars(*values: float) -> torch.Tensor:
    """ᾱ (B, 1, 1, 1) as a schedule gives it, in float32."""
    return torch.tensor(values).view(-1, 1, 1, 1)


@pytest.mark.parametrize("scheduler", [DDIMScheduler, DDPMScheduler])
@pytest.mark.parametrize("betas", ["linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_with_the_converted_eps_is_the_schedulers_own_step(scheduler, betas: str, kind: str) -> None:
    own = scheduler(beta_schedule=betas, prediction_type=kind, clip_sample=False)
    plain = scheduler(beta_schedule=betas, prediction_type="epsilon", clip_sample=False)
    for each in (own, plain):
        each.set_timesteps(1000)
    x_t, output = draw(1, 2, 4, 4, seed=0).double(), draw(1, 2, 4, 4, seed=1).double()
    for t in T[1:4]:
        # In float64, so that the two ways differ by what they compute and not by rounding where 1 / √ᾱ is large.
        expected = own.step(output, t, x_t, generator=torch.Generator().manual_seed(2)).prev_sample
        eps = predictions.convert(output, x_t, own.alphas_cumprod[t], given=kind, wanted="epsilon")
        found = plain.step(eps, t, x_t, generator=torch.Generator().manual_seed(2)).prev_sample
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_an_exact_prediction_gives_the_image_and_the_noise_by_the_closed_forms_in_float64(kind: str) -> None:
    alpha_bar = bars(*BARS).double()
    known = pair(alpha_bar)
    x_0, eps = predictions.x_0_and_eps(known[kind], known["x_t"], alpha_bar, prediction=kind)
    # float64 rounds to 1e-16, and 1 / √1e-8 is 1e4.
    torch.testing.assert_close(x_0, known["sample"], rtol=0, atol=1e-11)
    torch.testing.assert_close(eps, known["epsilon"], rtol=0, atol=1e-11)
    assert torch.equal(predictions.of(known["sample"], known["epsilon"], alpha_bar, prediction=kind), known[kind])


@pytest.mark.parametrize(("given", "wanted"), list(product(KINDS, KINDS)))
def test_every_prediction_is_converted_into_every_other_in_float64(given: str, wanted: str) -> None:
    alpha_bar = bars(*BARS).double()
    known = pair(alpha_bar)
    found = predictions.convert(known[given], known["x_t"], alpha_bar, given=given, wanted=wanted)
    torch.testing.assert_close(found, known[wanted], rtol=0, atol=1e-11)


@pytest.mark.parametrize("bar", BARS)
def test_v_keeps_the_image_and_the_noise_in_float32_at_every_noise(bar: float) -> None:
    alpha_bar = bars(bar)
    known = pair(alpha_bar)
    x_0, eps = predictions.x_0_and_eps(
        known["v_prediction"].float(), known["x_t"].float(), alpha_bar, prediction="v_prediction"
    )
    torch.testing.assert_close(x_0.double(), known["sample"], rtol=0, atol=EXACT)
    torch.testing.assert_close(eps.double(), known["epsilon"], rtol=0, atol=EXACT)


def test_eps_loses_the_image_where_there_is_little_signal_and_x_0_the_noise_where_there_is_little_noise() -> None:
    def worst(kind: str, bar: float) -> tuple[float, float]:
        known = pair(bars(bar))
        found = predictions.x_0_and_eps(known[kind].float(), known["x_t"].float(), bars(bar), prediction=kind)
        wanted = (known["sample"], known["epsilon"])
        return tuple(float((a.double() - b).abs().max()) for a, b in zip(found, wanted, strict=True))

    # Its rounding of 6e-8 to 2.4e-7 is divided by √ᾱ = 1e-4, or √(1 − ᾱ) = 1e-3.
    assert 1e-4 < worst("epsilon", 1e-8)[0] < 1e-2
    assert 1e-5 < worst("sample", 1 - 1e-6)[1] < 1e-3
    # What a network predicts itself is never touched.
    assert worst("epsilon", 1e-8)[1] < EXACT and worst("sample", 1 - 1e-6)[0] < EXACT


@pytest.mark.parametrize("kind", ["v_prediction", "sample"])
def test_at_zero_snr_the_image_is_what_the_network_says_and_the_noise_is_x_t(kind: str) -> None:
    schedule = schedules.from_scheduler_config({"rescale_betas_zero_snr": True, "prediction_type": kind}, source="x")
    bar = schedule.alphas_cumprod[999]
    assert float(bar) == 0
    image, x_t = draw(1, 2, 4, 4, seed=0), draw(1, 2, 4, 4, seed=1)
    output = image if kind == "sample" else -image  # v = √ᾱ·eps − √(1 − ᾱ)·x_0 at ᾱ = 0
    x_0, eps = predictions.x_0_and_eps(output, x_t, bar, prediction=kind)
    assert torch.equal(x_0, image) and torch.equal(eps, x_t)


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_is_converted_in_float32_and_its_own_prediction_is_left_as_it_is(kind: str) -> None:
    alpha_bar = bars(0.3, 0.9)
    known = pair(alpha_bar)
    output, x_t = known[kind].half(), known["x_t"].float()
    assert predictions.convert(output, x_t, alpha_bar, given=kind, wanted=kind) is output
    for wanted in set(KINDS) - {kind}:
        found = predictions.convert(output, x_t, alpha_bar, given=kind, wanted=wanted)
        assert found.dtype == torch.float32
        exact = predictions.convert(output.double(), x_t.double(), alpha_bar.double(), given=kind, wanted=wanted)
        torch.testing.assert_close(found.double(), exact, rtol=0, atol=1e-5)


def test_a_student_is_compared_in_its_own_prediction_or_in_one_that_nothing_is_divided_for() -> None:
    table = {(s, t): predictions.common(s, t) for s, t in product(KINDS, KINDS)}
    assert {key: kind for key, kind in table.items() if kind != "epsilon"} == {
        ("v_prediction", "v_prediction"): "v_prediction",
        ("sample", "sample"): "sample",
        ("v_prediction", "sample"): "v_prediction",
        ("sample", "v_prediction"): "v_prediction",
    }


class Says(nn.Module):
    """Predicts a constant, with twice the channels if it has a variance."""

    def __init__(self, output: torch.Tensor) -> None:
        super().__init__()
        self.output = nn.Parameter(output)

    def forward(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor, return_dict: bool) -> tuple[torch.Tensor]:
        return (self.output.expand(len(x), -1, -1, -1),)


@pytest.mark.parametrize("kind", KINDS)
def test_a_denoiser_returns_what_its_network_predicts_and_its_interface_converts_it(kind: str) -> None:
    schedule = schedules.from_scheduler_config({}, source="x")
    output, x = draw(1, 2, 4, 4, seed=0), draw(3, 2, 4, 4, seed=1)
    t, y = torch.tensor([0, 500, 999]), torch.zeros(3, dtype=torch.int64)
    denoiser = TorchDenoiser(Says(output), Interface(1, (2, 4, 4), schedule, prediction=kind))
    assert torch.equal(denoiser(x, t, y), output.expand(3, -1, -1, -1))
    assert set(denoiser.state_dict()) == {"unet.output"}
    assert denoiser.around(denoiser.unet).interface.prediction == kind
    # Each image at its own timestep, and eps by its definition.
    bar = schedule.alphas_cumprod[t].double().view(-1, 1, 1, 1)
    a, s = bar.sqrt(), (1 - bar).sqrt()
    eps = {"epsilon": output, "v_prediction": s * x + a * output, "sample": (x - a * output) / s}[kind]
    found = denoiser.interface.convert(denoiser(x, t, y), x, t, "epsilon")
    torch.testing.assert_close(found.double(), eps.double().expand(3, -1, -1, -1), rtol=1e-5, atol=1e-5)


def test_a_learned_variance_is_left_out() -> None:
    schedule = schedules.from_scheduler_config({}, source="x")
    output = draw(1, 4, 4, 4, seed=0)
    denoiser = TorchDenoiser(Says(output), Interface(1, (2, 4, 4), schedule))
    zero = torch.zeros(1, dtype=torch.int64)
    assert torch.equal(denoiser(output[:, :2], zero, zero), output[:, :2])


def test_an_unknown_prediction_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match="'flow' is not supported; expected epsilon, v_prediction, sample"):
        predictions.from_scheduler_config({"prediction_type": "flow"}, source="scheduler_config.json")
