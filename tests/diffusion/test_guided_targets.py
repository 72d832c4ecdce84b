"""Targets of one-branch students against computations of their own in float64, and against fine DDIM solutions."""

from __future__ import annotations

from itertools import product
from typing import Any, get_args

import pytest
import torch
from torch import nn

from dashdeploy.diffusion import guided_targets
from dashdeploy.diffusion.denoiser import Interface, TorchDenoiser
from dashdeploy.diffusion.sampling import ddim_step
from dashdeploy.recipe.schema import Prediction
from tests.made import schedule

KINDS = get_args(Prediction)
SHAPE = (1, 4, 4)
T = torch.tensor([40, 300, 700, 950])
Y = torch.tensor([0, 1, 2, 0])
W = torch.tensor([1.0, 1.5, 2.5, 4.0])


class Waves(nn.Module):
    """Smooth in x and t, other for each label; K = 3 is the null class."""

    def forward(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor, return_dict: bool) -> tuple[torch.Tensor]:
        t, y = (each.to(x.dtype).view(-1, 1, 1, 1) for each in (t, y))
        return (0.5 * torch.sin(x + t / 700 + y / 2),)


def teacher(prediction: str, *, zero_snr: bool = False) -> TorchDenoiser:
    interface = Interface(3, SHAPE, schedule(zero_snr=zero_snr), prediction=prediction)
    return TorchDenoiser(Waves(), interface)


def noise(size: int = 4) -> torch.Tensor:
    return torch.randn(size, *SHAPE, generator=torch.Generator().manual_seed(0))


def bar64(model: TorchDenoiser, t: torch.Tensor) -> torch.Tensor:
    """ᾱ (B, 1, 1, 1) of the schedule's float32 table in float64; 1 at −1."""
    return torch.cat([torch.ones(1), model.interface.schedule.alphas_cumprod])[t + 1].double().view(-1, 1, 1, 1)


def guided_x_0_64(model: TorchDenoiser, x: torch.Tensor, t: torch.Tensor, *, clip: bool) -> torch.Tensor:
    """The guided teacher's x_0 by its definition, float64."""
    uncond, cond = (Waves()(x, t, y, False)[0] for y in (torch.full_like(Y, 3)[: len(t)], Y[: len(t)]))
    output = uncond + W[: len(t)].double().view(-1, 1, 1, 1) * (cond - uncond)
    bar = bar64(model, t)
    a, s = bar.sqrt(), (1 - bar).sqrt()
    forms = {"epsilon": (x - s * output) / a, "v_prediction": a * x - s * output, "sample": output}
    found = forms[model.interface.prediction]
    return found.clamp(-1, 1) if clip else found


def said_64(x_0: torch.Tensor, x_t: torch.Tensor, bar: torch.Tensor, kind: str) -> torch.Tensor:
    """eps, v or x_0 of an image in x_t, float64."""
    a, s = bar.sqrt(), (1 - bar).sqrt()
    eps = (x_t - a * x_0) / s
    return {"epsilon": eps, "v_prediction": a * eps - s * x_0, "sample": x_0}[kind]


def target(
    model: TorchDenoiser, x: torch.Tensor, s: Any = None, *, steps: int = 0, clip: bool, kind: str
) -> torch.Tensor:
    found = guided_targets.target(model, x, T, s, Y, W, steps=steps, clip=clip, prediction=kind)
    assert found.dtype == torch.float32 and found.shape == x.shape
    return found


@pytest.mark.parametrize(("taught", "kind"), list(product(KINDS, KINDS)))
@pytest.mark.parametrize("clip", [True, False])
def test_a_guided_target_is_its_definition_in_float64(taught: str, kind: str, clip: bool) -> None:
    model, x = teacher(taught), noise()
    x_0 = guided_x_0_64(model, x.double(), T, clip=clip)
    assert clip == bool(x_0.abs().max() <= 1) or taught != "epsilon"
    expected = said_64(x_0, x.double(), bar64(model, T), kind)
    # x_0 of eps is divided by √ᾱ, 0.01 at t = 950, and what is said of it by √(1 − ᾱ), 0.05 at t = 40.
    torch.testing.assert_close(target(model, x, clip=clip, kind=kind).double(), expected, rtol=1e-4, atol=5e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("zero_snr", [False, True])
def test_the_x_0_that_lands_undoes_a_ddim_step(dtype: torch.dtype, zero_snr: bool) -> None:
    model = teacher("v_prediction", zero_snr=zero_snr)
    t, s = torch.tensor([999, 700, 400, 100]), torch.tensor([749, 200, 390, -1])
    x_t, x_0 = noise().to(dtype), noise().flip(0).clamp(-1, 1).to(dtype)
    now, after = (bar64(model, each).to(dtype) for each in (t, s))
    x_s = ddim_step(x_t, x_0, now, after, clip_sample=False, prediction="sample")
    found = guided_targets.x_0_that_lands(x_t, x_s, now, after)
    # From t = 400 to 390 x moves by 0.04 of x_0, and rounding is divided by that.
    torch.testing.assert_close(found, x_0, rtol=0, atol=1e-12 if dtype == torch.float64 else 2e-5)
    assert (float(now[0]) == 0) == zero_snr


S = torch.tensor([-1, 100, 400, 700])


def path(model: TorchDenoiser, steps: int, *, t: torch.Tensor = T, s: torch.Tensor = S, clip: bool) -> torch.Tensor:
    size = len(t)
    return guided_targets.path(model, noise(size), t, s, Y[:size], W[:size], steps=steps, clip=clip)


def fine(model: TorchDenoiser, t: torch.Tensor, s: torch.Tensor, steps: int, *, clip: bool) -> torch.Tensor:
    """Each image's path from t to s by DDIM, float64: `steps` of them, at timesteps that are evenly spaced."""
    x = noise(len(t)).double()
    for i in range(steps):
        now, after = ((t + torch.trunc((s - t) * j / steps).long()) for j in (i, i + 1))
        x_0 = guided_x_0_64(model, x, now, clip=clip)
        (a, r), (b, q) = ((bar.sqrt(), (1 - bar).sqrt()) for bar in (bar64(model, now), bar64(model, after)))
        x = torch.where((now == after).view(-1, 1, 1, 1), x, b * x_0 + q * (x - a * x_0) / r)
    return x


@pytest.mark.parametrize("taught", KINDS)
@pytest.mark.parametrize("clip", [True, False])
def test_a_path_of_one_step_is_one_ddim_step(taught: str, clip: bool) -> None:
    model = teacher(taught)
    torch.testing.assert_close(
        path(model, 1, clip=clip).double(), fine(model, T, S, 1, clip=clip), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("taught", KINDS)
def test_a_path_of_many_steps_ends_where_a_fine_ddim_solution_does_and_few_are_worth_many_of_ddim(taught: str) -> None:
    model, t, s = teacher(taught), torch.tensor([300, 500, 700, 950]), torch.tensor([100, 300, 500, 750])
    # Every timestep and every second one: DDIM's error is of first order, and so their difference takes it away.
    every, half = (fine(model, t, s, steps, clip=False) for steps in (200, 100))
    solution = 2 * every - half

    def error(found: torch.Tensor) -> float:
        return float((found - solution).norm() / solution.norm())

    assert error(path(model, 100, t=t, s=s, clip=False)) < error(every) / 2 < 2e-3
    assert error(path(model, 10, t=t, s=s, clip=False)) < error(fine(model, t, s, 10, clip=False)) / 2
    # To the clean image too; DDIM's error there is of first order.
    ends = [path(model, 40, clip=True).double(), fine(model, T, S, 951, clip=True)]
    assert float((ends[0] - ends[1]).norm() / ends[1].norm()) < 0.02


def test_each_image_has_its_own_path_whatever_is_beside_it() -> None:
    model = teacher("v_prediction")
    together = path(model, 3, clip=True)
    for i in range(4):
        x = guided_targets.path(
            *(model, noise()[i : i + 1], T[i : i + 1], S[i : i + 1], Y[i : i + 1], W[i : i + 1]), steps=3, clip=True
        )
        torch.testing.assert_close(together[i : i + 1], x, rtol=1e-5, atol=1e-5)


def test_more_steps_than_timesteps_between_are_as_many_as_there_are() -> None:
    model = teacher("v_prediction")
    t, s = torch.tensor([702, 40]), torch.tensor([700, 38])
    many, two = (path(model, steps, t=t, s=s, clip=False) for steps in (50, 2))
    assert torch.isfinite(many).all()
    # The second of two steps is of second order, and of fifty, where most stay, of first.
    torch.testing.assert_close(many, two, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(many.double(), fine(model, t, s, 2, clip=False), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("taught", ["v_prediction", "sample"])
@pytest.mark.parametrize("steps", [1, 2, 3, 40])
def test_from_zero_snr_a_path_is_finite_and_is_that_of_fine_ddim(taught: str, steps: int) -> None:
    model = teacher(taught, zero_snr=True)
    t, s = torch.tensor([999, 999, 999, 999]), torch.tensor([749, 499, 0, -1])
    found = path(model, steps, t=t, s=s, clip=False)
    assert torch.isfinite(found).all()
    if steps == 1:
        torch.testing.assert_close(found.double(), fine(model, t, s, 1, clip=False), rtol=1e-5, atol=1e-5)
    if steps == 40:
        solution = fine(model, t, s, 1000, clip=False)
        assert float((found - solution).norm() / solution.norm()) < 0.02


@pytest.mark.parametrize("clip", [True, False])
def test_by_a_timestep_between_the_target_ends_where_two_ddim_steps_do_in_float64(clip: bool) -> None:
    model, x = teacher("v_prediction"), noise()
    via = torch.tensor([3, 222, 551, 701])  # nowhere near the middle
    found = guided_targets.target(*(model, x, T, S, Y, W), steps=1, clip=clip, prediction="sample", via=via)
    landed = ddim_step(
        x.double(), found.double(), bar64(model, T), bar64(model, S), clip_sample=False, prediction="sample"
    )
    wanted = x.double()
    for now, after in ((T, via), (via, S)):
        x_0 = guided_x_0_64(model, wanted, now, clip=clip)
        (a, r), (b, q) = ((bar.sqrt(), (1 - bar).sqrt()) for bar in (bar64(model, now), bar64(model, after)))
        wanted = b * x_0 + q * (wanted - a * x_0) / r
    torch.testing.assert_close(landed, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["v_prediction", "sample"])
@pytest.mark.parametrize("taught", KINDS)
@pytest.mark.parametrize("steps", [1, 3])
def test_one_ddim_step_of_the_target_ends_where_the_teachers_path_does(kind: str, taught: str, steps: int) -> None:
    model, x = teacher(taught), noise()
    wanted = target(model, x, S, steps=steps, clip=True, kind=kind)
    now, after = bar64(model, T), bar64(model, S)
    landed = ddim_step(x.double(), wanted.double(), now, after, clip_sample=False, prediction=kind)
    torch.testing.assert_close(landed, path(model, steps, clip=True).double(), rtol=1e-4, atol=1e-4)
    if steps == 1:  # that is the guided output itself
        torch.testing.assert_close(wanted, target(model, x, clip=True, kind=kind), rtol=1e-3, atol=1e-3)
