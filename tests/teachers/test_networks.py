from __future__ import annotations

import pytest

from dashdeploy.errors import UserError
from dashdeploy.recipe.architecture import Architecture, DiT
from dashdeploy.teachers import networks
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
