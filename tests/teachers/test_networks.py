from __future__ import annotations

import pytest

from dashdeploy.errors import UserError
from dashdeploy.recipe.architecture import Architecture, DiT
from dashdeploy.teachers import networks, scheduler_config
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
