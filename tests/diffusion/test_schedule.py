from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from dashdeploy.diffusion import schedule
from dashdeploy.errors import UserError
from dashdeploy.recipe.schema import NoiseSchedule


def test_linear_schedule_is_diffusers_own() -> None:
    ours = schedule.from_recipe(NoiseSchedule())
    theirs = DDPMScheduler(num_train_timesteps=1000, beta_start=1e-4, beta_end=0.02, beta_schedule="linear")
    # diffusers accumulates a thousand products in float32, we in float64.
    torch.testing.assert_close(ours.alphas_cumprod, theirs.alphas_cumprod, rtol=2e-4, atol=1e-7)


def test_cosine_schedule_is_clipped_as_the_recipe_says() -> None:
    betas = schedule.from_recipe(NoiseSchedule(kind="cosine", beta_start=1e-4, beta_end=0.9999)).betas
    assert betas.min() == pytest.approx(1e-4)
    assert betas.max() == pytest.approx(0.9999)
    inside = (betas > 1e-4) & (betas < 0.9999)
    np.testing.assert_allclose(betas[inside], schedule.cosine_betas(1000)[inside])


def test_cosine_betas_follow_diffusers_squaredcos() -> None:
    theirs = DDPMScheduler(num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2").betas.numpy()
    np.testing.assert_allclose(np.minimum(schedule.cosine_betas(1000), 0.999), theirs, rtol=1e-5)


@pytest.mark.parametrize("kind", ["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"])
def test_every_beta_schedule_of_ddpm_is_diffusers_own(kind: str) -> None:
    config = {"beta_schedule": kind, "beta_start": 2e-4, "beta_end": 0.015, "num_train_timesteps": 500}
    ours = schedule.from_scheduler_config(config, source="x")
    theirs = DDPMScheduler(**config)
    torch.testing.assert_close(ours.alphas_cumprod, theirs.alphas_cumprod, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("kind", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_zero_terminal_snr_is_diffusers_own_and_ends_at_zero(kind: str) -> None:
    config = {"beta_schedule": kind, "rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}
    ours = schedule.from_scheduler_config(config, source="x")
    theirs = DDIMScheduler(**config).alphas_cumprod
    # diffusers subtracts √ᾱ_T in float32: where little is left of √ᾱ, that rounding shows.
    torch.testing.assert_close(ours.alphas_cumprod, theirs, rtol=2e-3, atol=2e-7)
    assert ours.zero_terminal_snr and ours.betas[-1] == 1
    assert theirs[-1] == ours.alphas_cumprod[-1] == ours.snr[-1] == 0
    assert (ours.alphas_cumprod[:-1] > 0).all()


def test_a_schedule_with_zero_terminal_snr_is_saved_and_loaded_and_diffusers_has_it_too() -> None:
    asked = {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}
    ours = schedule.from_scheduler_config(asked, source="x")
    config = ours.scheduler_config(prediction="v_prediction")
    assert config["prediction_type"] == "v_prediction"
    assert schedule.from_scheduler_config(config, source="x").sha256 == ours.sha256
    theirs = DDIMScheduler.from_config(config).alphas_cumprod
    torch.testing.assert_close(theirs, ours.alphas_cumprod, rtol=1e-3, atol=1e-7)
    assert theirs[-1] == 0


def test_at_zero_snr_all_that_is_added_is_noise() -> None:
    ours = schedule.NoiseSchedule(np.array([0.1, 0.5, 1.0]))
    x_0, eps = (torch.randn(2, 1, 2, 2, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    assert torch.equal(ours.add_noise(x_0, eps, torch.tensor([2, 2])), eps)


def test_noised_data_keeps_unit_variance() -> None:
    ours = schedule.from_recipe(NoiseSchedule())
    x_0 = torch.randn(4000, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    eps = torch.randn(4000, 1, 2, 2, generator=torch.Generator().manual_seed(1))
    x_t = ours.add_noise(x_0, eps, torch.full((4000,), 300))
    assert float(x_t.var()) == pytest.approx(1.0, abs=0.03)


def test_snr_is_signal_over_noise() -> None:
    ours = schedule.from_recipe(NoiseSchedule())
    bar = np.cumprod(1 - ours.betas)
    np.testing.assert_allclose(ours.snr.numpy(), bar / (1 - bar))


def test_a_saved_scheduler_configuration_gives_the_same_schedule_back_and_loads_in_diffusers() -> None:
    ours = schedule.from_recipe(NoiseSchedule(kind="cosine", beta_start=1e-4, beta_end=0.9999))
    config = ours.scheduler_config(clip_sample=True)
    assert schedule.from_scheduler_config(config, source="x").sha256 == ours.sha256
    theirs = DDIMScheduler.from_config(config)
    torch.testing.assert_close(theirs.alphas_cumprod, ours.alphas_cumprod, rtol=1e-3, atol=1e-7)


def test_schedules_that_differ_have_different_hashes() -> None:
    a = schedule.from_recipe(NoiseSchedule())
    b = schedule.from_recipe(NoiseSchedule(beta_end=0.021))
    assert a.sha256 != b.sha256


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "it is a FlowMatchEulerDiscreteScheduler; supported are"),
        ({"beta_schedule": "laplace"}, "'laplace' is not supported; expected linear, scaled_linear, squared"),
        ({"rescale_betas_zero_snr": True}, "Set prediction_type to what the model predicts"),
        ({"trained_betas": [0.1, 0.2]}, "betas must be 1000"),
        ({"trained_betas": [2.0] * 1000}, "between 0 and 1"),
        ({"trained_betas": [float("nan")] * 1000}, "between 0 and 1"),
        ({"beta_start": 1e-9}, r"at timestep 0 of 1000 alphas_cumprod is 1 in float32 \(beta 1e-09\)"),
        ({"trained_betas": [0.5] * 1000}, r"at timestep \d+ of 1000 alphas_cumprod is 0 .*or fewer timesteps"),
        ({"clip_sample_range": 2.0}, "clip_sample_range is 2.0: images are within"),
    ],
)
def test_a_scheduler_that_is_not_supported_is_refused(config: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        schedule.from_scheduler_config(config, source="scheduler_config.json")


def test_the_table_from_the_clean_image_has_each_timestep_one_further() -> None:
    ours = schedule.from_recipe(NoiseSchedule())
    table = ours.alphas_cumprod_from_clean
    assert table.shape == (1001,) and float(table[0]) == 1.0
    assert torch.equal(table[1:], ours.alphas_cumprod)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"set_alpha_to_one": False}, ["set_alpha_to_one is false"]),
        ({"thresholding": True, "clip_sample_range": 1.5}, ["thresholding is not done here"]),
        ({"steps_offset": 1, "set_alpha_to_one": False}, ["set_alpha_to_one", "steps_offset 1 is not added"]),
        # What changes nothing here: without clipping its range, and the variance of samplers that add noise.
        ({"clip_sample": False, "clip_sample_range": 2.0}, []),
        ({"_class_name": "DDPMScheduler", "variance_type": "learned_range"}, []),
        ({"timestep_spacing": "leading", "clip_sample": False}, []),
        (schedule.from_recipe(NoiseSchedule()).scheduler_config(clip_sample=False), []),
    ],
)
def test_settings_of_a_scheduler_that_are_not_followed_are_told(config: dict, said: list[str]) -> None:
    schedule.from_scheduler_config(config, source="x")
    found = schedule.ignored_settings(config)
    assert len(found) == len(said)
    assert all(start in text for start, text in zip(said, found, strict=True))


def test_the_settings_that_are_told_are_all_that_diffusers_has() -> None:
    followed = {"num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type"}
    followed |= {"rescale_betas_zero_snr", "clip_sample_range"}
    told = {"set_alpha_to_one", "thresholding", "steps_offset"}
    of_the_recipe = {"clip_sample", "timestep_spacing"}
    nothing = {"variance_type", "dynamic_thresholding_ratio", "sample_max_value"}  # the last two: of thresholding
    known = {name for kind in (DDIMScheduler, DDPMScheduler) for name in inspect.signature(kind.__init__).parameters}
    assert known - {"self"} == followed | told | of_the_recipe | nothing


def test_betas_that_leave_a_timestep_without_noise_or_signal_make_no_schedule() -> None:
    # 2⁻²⁵ is the least that float32 still takes from 1, once rounded.
    schedule.NoiseSchedule(np.array([2.0**-24, 0.02]))
    with pytest.raises(UserError, match="at timestep 0 of 2 alphas_cumprod is 1 in float32"):
        schedule.NoiseSchedule(np.array([2.0**-26, 0.02]))
    with pytest.raises(UserError, match=r"^noise_schedule: at timestep 0"):
        schedule.from_recipe(NoiseSchedule(beta_start=1e-12))
    with pytest.raises(UserError, match="alphas_cumprod is 0 in float32"):
        schedule.from_recipe(NoiseSchedule(beta_end=0.9999))


@pytest.mark.parametrize("betas", [[0.1, 1.0, 0.5], [1.0, 1.0], [0.1, 1.0 + 1e-9], [0.0, 0.1], [0.1, np.nan], []])
def test_no_beta_but_the_last_may_be_one(betas: list[float]) -> None:
    with pytest.raises(UserError, match="betas must be numbers between 0 and 1"):
        schedule.NoiseSchedule(np.array(betas))
