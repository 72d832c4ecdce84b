from __future__ import annotations

import numpy as np
import pytest
import torch

from dashdeploy.data.images import LabelledImages
from dashdeploy.diffusion import schedule
from dashdeploy.metrics import gap
from dashdeploy.recipe.schema import NoiseSchedule

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
