from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from dashdeploy.data.images import LabelledImages
from dashdeploy.diffusion import schedule
from dashdeploy.diffusion.denoiser import Interface
from dashdeploy.metrics import gap
from dashdeploy.recipe.schema import NoiseSchedule, Prediction

SCHEDULE = schedule.from_recipe(NoiseSchedule())
N = 400


@pytest.fixture
def probes() -> gap.Probes:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (20, 1, 4, 4)).astype(np.uint8)
    data = LabelledImages("x", images, rng.integers(0, 3, 20), ("a", "b", "c"), False)
    return gap.draw_probes(data, SCHEDULE, num=N, seed=0)


@pytest.fixture
def teacher() -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return torch.randn(N, 1, 4, 4, generator=g), torch.randn(N, 1, 4, 4, generator=g)


def table(student, teacher, probes, w: float = 2.5) -> tuple[gap.GapRow, list[gap.GapRow]]:
    return gap.fidelity(student, teacher, probes, scale=w, num_train_timesteps=1000, bins=10)


def test_the_teacher_itself_is_perfect(teacher, probes) -> None:
    overall, bins = table(teacher, teacher, probes)
    for row in [overall, *bins]:
        assert (row.rho, row.energy_cosine, row.mean_cosine, row.slope) == pytest.approx((1, 1, 1, 1))
        assert (row.relative_error, row.mse, row.guided_error) == (0, 0, 0)


def test_a_gap_of_half_the_size_keeps_its_direction(teacher, probes) -> None:
    uncond, cond = teacher
    overall, _ = table((uncond, uncond + 0.5 * (cond - uncond)), teacher, probes)
    assert overall.rho == pytest.approx(0.5)
    assert overall.slope == pytest.approx(0.5)
    assert overall.energy_cosine == pytest.approx(1)
    assert overall.relative_error == pytest.approx(0.5)


def test_a_gap_of_the_right_size_and_the_wrong_direction_is_seen(teacher, probes) -> None:
    # ρ alone calls this perfect.
    uncond, cond = teacher
    overall, _ = table((uncond, uncond - (cond - uncond)), teacher, probes)
    assert overall.rho == pytest.approx(1)
    assert overall.energy_cosine == pytest.approx(-1)
    assert overall.relative_error == pytest.approx(2)


def test_mse_is_a_pixel_of_the_gap(teacher, probes) -> None:
    uncond, cond = teacher
    overall, _ = table((uncond, cond + 0.1), teacher, probes)
    assert overall.mse == pytest.approx(0.01, rel=1e-4)


@pytest.mark.parametrize("w", [1.0, 2.5, 4.0])
def test_the_guided_error_weighs_the_gap_by_w_times_w_minus_one(teacher, probes, w: float) -> None:
    # ‖e_w‖² = w‖e_cond‖² − (w − 1)‖e_uncond‖² + w(w − 1)‖e_Δ‖²
    g = torch.Generator().manual_seed(1)
    e_u, e_c = (0.1 * torch.randn(N, 1, 4, 4, generator=g) for _ in range(2))
    overall, _ = table((teacher[0] + e_u, teacher[1] + e_c), teacher, probes, w)
    guided = (teacher[0] + w * (teacher[1] - teacher[0])).double()
    square = lambda v: float(v.double().square().sum())  # noqa: E731
    expected = w * square(e_c) - (w - 1) * square(e_u) + w * (w - 1) * square(e_c - e_u)
    assert overall.guided_error**2 * square(guided) == pytest.approx(expected, rel=1e-4)


def test_bins_cover_all_probes_once_and_an_error_shows_in_its_own_bin(teacher, probes) -> None:
    uncond, cond = (branch.clone() for branch in teacher)
    cond[(probes.t >= 300) & (probes.t < 400)] += 1
    overall, bins = table((uncond, cond), teacher, probes)
    assert sum(row.num for row in bins) == overall.num == N
    assert [row.t_low for row in bins if row.relative_error > 0] == [300]


def test_probes_are_stratified_over_t_and_fixed_by_the_seed(probes) -> None:
    assert torch.bincount(probes.t // 100, minlength=10).tolist() == [40] * 10
    assert int(probes.t.max()) <= 999


W = torch.tensor([1.0, 1.02, 1.5, 2.5, 4.0]).repeat(N // 5)


class Linear:
    """Two branches in closed form, in any prediction."""

    def __init__(self, prediction: Prediction) -> None:
        self.interface = Interface(3, (1, 4, 4), SCHEDULE, prediction=prediction)

    def branches(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        null = torch.sin(x + t.view(-1, 1, 1, 1) / 100)
        return null, null + 0.3 * torch.cos(x * (1 + y.view(-1, 1, 1, 1)))

    def guided(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        uncond, cond = self.branches(x, t, y)
        return uncond + w.view(-1, 1, 1, 1) * (cond - uncond)


class Dressed(Linear):
    """The same as a model of one branch, which shows its guided output and no more."""

    def __init__(self, prediction: Prediction, guidance_range: tuple[float, float]) -> None:
        super().__init__(prediction)
        self.interface = replace(self.interface, branches=1, guidance_range=guidance_range)

    def branches(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        raise AssertionError("it has one branch")

    def guided(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        low, high = self.interface.guidance_range
        assert bool(((w >= low) & (w <= high)).all()), "it was asked out of its range"
        uncond, cond = Linear.branches(self, x, t, y)
        return uncond + w.view(-1, 1, 1, 1) * (cond - uncond)


@pytest.mark.parametrize("guidance_range", [(1.0, 4.0), (0.0, 3.0), (1.5, 6.0), (0.0, 0.9), (0.5, 1.1)])
@pytest.mark.parametrize("w", [W, None])
def test_two_branches_dressed_as_one_are_seen_as_they_are(probes, guidance_range, w: torch.Tensor | None) -> None:
    model, given = Dressed("epsilon", guidance_range), (probes.x_t, probes.t, probes.y)
    found = gap.as_branches(model, *given, w)
    # The gap is a difference over a difference of scales, which is 0.05 at least and 0.4 here where it is large.
    for branch, expected in zip(found, Linear("epsilon").branches(*given), strict=True):
        torch.testing.assert_close(branch, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_figures_are_of_eps_whatever_a_model_predicts_and_of_one_branch_as_of_two(probes, prediction) -> None:
    two = gap.predict(Linear(prediction), probes, batch_size=64)
    one = gap.predict(Dressed(prediction, (1.0, 4.0)), probes, batch_size=64, w=W)
    bar = SCHEDULE.alphas_cumprod[probes.t].double().view(-1, 1, 1, 1)
    a, s = bar.sqrt(), (1 - bar).sqrt()
    for found, also, branch in zip(two, one, Linear(prediction).branches(probes.x_t, probes.t, probes.y), strict=True):
        forms = {
            "epsilon": branch,
            "v_prediction": s * probes.x_t + a * branch,
            "sample": (probes.x_t - a * branch) / s,
        }
        # eps of x_0 is divided by √(1 − ᾱ), 0.01 at t = 0.
        torch.testing.assert_close(found.double(), forms[prediction].double(), rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(also.double(), forms[prediction].double(), rtol=1e-4, atol=1e-3)
    own = gap.predict(Linear(prediction), probes, batch_size=64, prediction=prediction)
    for found, branch in zip(own, Linear(prediction).branches(probes.x_t, probes.t, probes.y), strict=True):
        assert torch.equal(found, branch)
    overall, _ = table(one, two, probes)
    assert overall.relative_error < 1e-4 and overall.rho == pytest.approx(1, abs=1e-4)


def test_one_branch_that_does_not_respond_to_guidance_has_no_gap(probes) -> None:
    class Deaf(Dressed):
        def guided(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
            return Linear.branches(self, x, t, y)[1]

    overall, _ = table(
        gap.predict(Deaf("epsilon", (1.0, 4.0)), probes, batch_size=64, w=W),
        gap.predict(Linear("epsilon"), probes, batch_size=64),
        probes,
    )
    assert overall.rho == 0 and overall.relative_error == pytest.approx(1)
    assert overall.cond_error == 0
