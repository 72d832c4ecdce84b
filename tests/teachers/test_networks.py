from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import UNet2DModel

from dashdeploy.errors import UserError
from dashdeploy.recipe.architecture import Architecture, DiT
from dashdeploy.teachers import fits, networks, scheduler_config
from dashdeploy.teachers.dit import dit_config
from dashdeploy.teachers.unet2d import unet_config


@pytest.mark.parametrize("network", [networks.UNET, networks.DIT])
def test_a_network_that_no_memory_holds_is_refused_before_any_of_it_is_made(network: str) -> None:
    shape = (3, 64, 64)
    if network == networks.UNET:
        config = unet_config(Architecture(block_out_channels=(8192,) * 4), image_shape=shape, num_classes=10)
    else:
        large = DiT(num_layers=1000, num_attention_heads=64, attention_head_dim=128)
        config = dit_config(large, image_shape=shape, num_classes=10)
    with pytest.raises(UserError, match=r"parameters: training it takes [\d,]+ GiB, and this machine has \d+"):
        networks.create(config, network=network)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_train_timesteps", "trailing"),
        ("num_train_timesteps", 10**9),
        ("beta_start", {}),
        ("beta_end", float("nan")),
        ("trained_betas", [0.1, [0.2]]),
        ("beta_schedule", 3),
        ("prediction_type", None),
    ],
)
def test_a_scheduler_configuration_of_wrong_values_names_the_key(key: str, value: object) -> None:
    with pytest.raises(UserError, match=rf"^teacher x: {key}: "):
        scheduler_config.check({key: value}, source="teacher x")


def test_a_scheduler_configuration_may_have_more_keys() -> None:
    scheduler_config.check({"_class_name": "DDPMScheduler", "variance_type": "fixed_small", "beta_end": 1}, source="x")


def tiny() -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    config = unet_config(
        Architecture(block_out_channels=(8, 16), layers_per_block=1), image_shape=(1, 8, 8), num_classes=3
    )
    return config, networks.create(config).state_dict()


def test_a_network_that_fits_its_weights_passes() -> None:
    config, state = tiny()
    fits.refuse_misfits(UNet2DModel, config, state, image_shape=(1, 8, 8), source="teacher x")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"block_out_channels": [8, 1 << 40]}, r"block_out_channels is 1099511627776; at most 16,777,216"),
        ({"layers_per_block": 10**18}, "layers_per_block is 1000000000000000000; at most 100"),
        ({"norm_eps": float("nan")}, "norm_eps is nan"),
        ({"down_block_types": ["DownBlock2D"] * 100}, "down_block_types has 100 values; at most 64"),
        ({"block_out_channels": [8, 4096]}, r"conv_norm_out|is \(\d+,.*\) in the file and \(\d+,"),
        ({"layers_per_block": 2}, "the file lacks .* and [0-9]+ more"),
        ({"norm_num_groups": 0}, r"cannot be built \(ZeroDivisionError"),
        ({"down_block_types": [["DownBlock2D"], "DownBlock2D"]}, "cannot be built"),
        ({"time_embedding_type": 7}, "cannot be built"),
        ({"act_fn": {}}, "cannot be built"),
        ({"center_input_sample": True, "freq_shift": "x"}, "cannot be (built|run on one image)"),
    ],
)
def test_a_configuration_that_is_no_network_of_these_weights_is_one_line(changes: dict[str, Any], said: str) -> None:
    config, state = tiny()
    with pytest.raises(UserError, match=said) as told:
        fits.refuse_misfits(UNet2DModel, {**config, **changes}, state, image_shape=(1, 8, 8), source="teacher x")
    assert str(told.value).startswith("teacher x: ") and "\n" not in str(told.value)


def test_images_that_cannot_be_halved_are_told_before_the_network_runs() -> None:
    config, state = tiny()
    with pytest.raises(UserError, match="cannot be run on one image"):
        fits.refuse_misfits(UNet2DModel, config, state, image_shape=(1, 7, 7), source="teacher x")
