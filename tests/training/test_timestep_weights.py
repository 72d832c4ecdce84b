from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dashdeploy.diffusion import schedule
from dashdeploy.errors import UserError
from dashdeploy.recipe.schema import NoiseSchedule
from dashdeploy.recipe.schema import TimestepWeights as Config
from dashdeploy.training import timestep_weights as module
from dashdeploy.training.timestep_weights import TimestepWeights, transfer

LINEAR = schedule.from_recipe(NoiseSchedule())
COSINE = schedule.from_recipe(NoiseSchedule(kind="cosine", beta_start=1e-4, beta_end=0.9999))
ALL_T = torch.arange(1000)
KINDS = ["published", "tirt", "min_snr_x0", "uniform", "min_snr_eps", "min_snr_v", "uncertainty", "loss_ema"]


def learnt(kind: str, noise: schedule.NoiseSchedule = COSINE) -> TimestepWeights:
    weights = TimestepWeights(Config(kind=kind), noise)
    with torch.no_grad():
        weights.lam.copy_(torch.linspace(-1, 2, 1000))
    return weights


@pytest.mark.parametrize(
    ("kind", "omega"),
    [
        ("uniform", lambda snr, lam: torch.ones_like(snr)),
        ("min_snr_x0", lambda snr, lam: snr.clamp(max=5)),
        ("min_snr_eps", lambda snr, lam: (5 / snr).clamp(max=1)),
        ("min_snr_v", lambda snr, lam: snr.clamp(max=5) / (snr + 1)),
        ("tirt", lambda snr, lam: snr.clamp(max=5) * torch.sigmoid(lam)),
        ("loss_ema", lambda snr, lam: torch.exp(0.5 * lam)),
    ],
)
def test_weights_follow_their_formula_and_average_to_one(kind: str, omega) -> None:
    weights = learnt(kind)
    bar = COSINE.alphas_cumprod.double()
    expected = omega(COSINE.snr, weights.lam.detach().double())
    expected = expected / expected.mean()
    found = weights(ALL_T, ALL_T).detach().double()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert float(found.mean()) == pytest.approx(1, abs=1e-5)
    assert len(bar) == 1000


def test_published_divides_by_the_mean_of_the_batch() -> None:
    weights = learnt("published")
    batch = torch.tensor([10, 500, 900])
    omega = COSINE.snr.clamp(max=5) * torch.sigmoid(weights.lam.double())
    torch.testing.assert_close(weights(batch, batch).double(), omega[batch] / omega[batch].mean(), rtol=1e-4, atol=1e-7)


def test_uncertainty_is_the_loss_over_its_scale_plus_the_log_of_it() -> None:
    weights = learnt("uncertainty")
    t = torch.tensor([0, 999])
    torch.testing.assert_close(weights(t, t), torch.exp(-weights.lam[t]))
    torch.testing.assert_close(weights.regulariser(t), weights.lam[t])


def test_learnt_uncertainty_approaches_the_inverse_of_the_expected_loss() -> None:
    weights = TimestepWeights(Config(kind="uncertainty"), COSINE)
    loss = torch.linspace(0.5, 2.0, 1000)
    optimizer = torch.optim.Adam(weights.parameters(), lr=0.05)
    for _ in range(400):
        optimizer.zero_grad()
        (weights(ALL_T, ALL_T) * loss + weights.regulariser(ALL_T)).mean().backward()
        optimizer.step()
    torch.testing.assert_close(weights.omega().detach(), 1 / loss, rtol=0.02, atol=0.02)


def test_lambda_learnt_with_the_loss_flows_away_from_high_loss_timesteps() -> None:
    # What TIRT does when minimised jointly: difficult timesteps are weighted down.
    weights = TimestepWeights(Config(kind="tirt"), COSINE)
    loss = torch.ones(1000)
    loss[:500] = 4.0
    optimizer = torch.optim.Adam(weights.parameters(), lr=0.05)
    for _ in range(50):
        optimizer.zero_grad()
        (weights(ALL_T, ALL_T) * loss).mean().backward()
        optimizer.step()
    assert weights.lam[:400].max() < weights.lam[600:900].min()


def test_loss_ema_weights_difficult_timesteps_up_and_starts_from_the_first_loss() -> None:
    weights = TimestepWeights(Config(kind="loss_ema"), COSINE)
    loss = torch.where(ALL_T < 100, 4.0, 1.0)
    for _ in range(3):
        weights.observe(ALL_T, loss)
    found = weights(ALL_T, ALL_T)
    assert float(found[0] / found[500]) == pytest.approx(2.0, rel=1e-3)


def test_min_snr_for_x0_starves_the_noisy_end_of_the_cosine_schedule() -> None:
    # The published weights at λ = 0: 73 % of the weight on t < 300, 1 % on t ≥ 700.
    weights = TimestepWeights(Config(kind="tirt"), COSINE)
    mass = weights.mass_by_decile()
    assert sum(mass) == pytest.approx(1)
    assert sum(mass[:3]) == pytest.approx(0.73, abs=0.02)
    assert sum(mass[7:]) == pytest.approx(0.01, abs=0.01)
    assert weights.starved() == [7, 8, 9] or weights.starved() == [8, 9]
    assert TimestepWeights(Config(kind="uniform"), COSINE).starved() == []


@pytest.mark.parametrize("kind", ["tirt", "published", "uncertainty", "loss_ema"])
def test_transfer_copies_lambda_bit_for_bit_and_freezes_it(kind: str, tmp_path: Path) -> None:
    teacher = learnt(kind)
    teacher.save(tmp_path)
    student = transfer(Config(kind=kind), COSINE, tmp_path)
    assert torch.equal(student.lam, teacher.lam)
    assert not list(student.parameters())
    assert not student.learns


@pytest.mark.parametrize("kind", ["uniform", "min_snr_x0", "min_snr_eps"])
def test_kinds_without_lambda_need_nothing_of_the_teacher(kind: str, tmp_path: Path) -> None:
    assert transfer(Config(kind=kind), COSINE, tmp_path / "nowhere").config.kind == kind


def test_published_and_tirt_share_their_lambda(tmp_path: Path) -> None:
    learnt("tirt").save(tmp_path)
    assert transfer(Config(kind="published"), COSINE, tmp_path).frozen


def test_a_teacher_without_lambda_is_refused_with_the_kinds_that_need_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"does not exist.*uniform"):
        transfer(Config(kind="tirt"), COSINE, tmp_path)


@pytest.mark.parametrize(
    ("config", "noise", "message"),
    [
        (Config(kind="tirt"), LINEAR, "another noise schedule"),
        (
            Config(kind="tirt"),
            schedule.from_recipe(NoiseSchedule(num_train_timesteps=500)),
            r"shape \(1000,\) and the noise schedule 500",
        ),
        (Config(kind="tirt", gamma=4), COSINE, "gamma is 5.0 there and 4.0 here"),
        (Config(kind="uncertainty"), COSINE, "kind is 'tirt' there"),
    ],
)
def test_lambda_of_other_settings_is_refused(tmp_path: Path, config: Config, noise, message: str) -> None:
    learnt("tirt").save(tmp_path)
    with pytest.raises(UserError, match=message):
        transfer(config, noise, tmp_path)


def test_a_lambda_with_nan_and_a_truncated_file_are_refused(tmp_path: Path) -> None:
    learnt("tirt").save(tmp_path)
    path = tmp_path / module.FILE
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(UserError, match="not a whole safetensors file"):
        transfer(Config(kind="tirt"), COSINE, tmp_path)
    learnt("tirt").save(tmp_path)
    lam = load_file(path)["lambda"]
    lam[3] = float("nan")
    metadata = {"kind": "tirt", "gamma": "5.0", "schedule_sha256": COSINE.sha256}
    save_file({"lambda": lam}, path, metadata)
    with pytest.raises(UserError, match="NaN"):
        transfer(Config(kind="tirt"), COSINE, tmp_path)
