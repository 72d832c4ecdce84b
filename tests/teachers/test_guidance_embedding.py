"""The guidance scale as an input: what a new network says, what folding it in gives, and what its folder holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from dashdeploy.diffusion import schedule
from dashdeploy.diffusion.denoiser import Interface, TorchDenoiser
from dashdeploy.diffusion.grids import grids
from dashdeploy.errors import UserError
from dashdeploy.recipe.architecture import Architecture, DiT
from dashdeploy.recipe.schema import NoiseSchedule
from dashdeploy.teachers import formats, guidance_embedding, networks
from dashdeploy.teachers.dit import dit_config
from dashdeploy.teachers.unet2d import unet_config

K, SHAPE, RANGE = 4, (1, 8, 8), (1.0, 4.0)
GRIDS = grids((1, 2, 4), 1000)
SCHEDULE = schedule.from_recipe(NoiseSchedule())
SMALL = Architecture(block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, attention_levels=(1,))
CONFIGS = {
    networks.UNET: unet_config(SMALL, image_shape=SHAPE, num_classes=K),
    networks.DIT: dit_config(
        DiT(num_layers=2, num_attention_heads=2, attention_head_dim=8), image_shape=SHAPE, num_classes=K
    ),
}
STD = {networks.UNET: 0.2, networks.DIT: 0.1}
"""Of the weights: so that outputs are of size 1, and float32 rounds them to 1e-7."""
pytestmark = pytest.mark.parametrize("kind", CONFIGS)


def plain(kind: str) -> Any:
    """A network with weights that are all random: diffusers begins some at 0, behind which nothing would show."""
    torch.manual_seed(0)
    network = networks.build(CONFIGS[kind], network=kind)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn_like(parameter) * STD[kind])
    return networks.without_label_dropout(network).eval()


def one_branch(kind: str, *, trained: bool = True) -> Any:
    """The same network with w as an input; trained: its embedding of w is no longer 0."""
    network = guidance_embedding.add(plain(kind), RANGE)
    if trained:
        torch.manual_seed(1)
        for module, name in guidance_embedding.embeddings(network):
            for parameter in getattr(module, name).scale.parameters():
                torch.nn.init.normal_(parameter, std=0.5)
    return network.eval()


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    x = torch.randn(5, *SHAPE, generator=torch.Generator().manual_seed(2))
    return x, torch.tensor([0, 250, 500, 750, 999]), torch.tensor([0, 1, 2, 3, 4])


@torch.no_grad()
def output(network: Any, condition: Any) -> torch.Tensor:
    x, t, _ = inputs()
    return network(x, t, condition, return_dict=False)[0]


@pytest.mark.parametrize("w", [1.0, 2.5, 4.0])
def test_a_new_one_is_the_conditional_branch_at_every_scale(kind: str, w: float) -> None:
    y = inputs()[2]
    new = one_branch(kind, trained=False)
    assert torch.equal(output(new, (y, torch.full((5,), w))), output(plain(kind), y))
    count = len(guidance_embedding.embeddings(new))
    assert count == (1 if kind == networks.UNET else CONFIGS[kind]["num_layers"])


def test_w_of_each_image_counts_for_that_image_alone(kind: str) -> None:
    network, y = one_branch(kind), inputs()[2]
    w = torch.tensor([1.0, 1.7, 2.5, 3.2, 4.0])
    together = output(network, (y, w))
    for i, scale in enumerate(w):
        alone = output(network, (y, scale.expand(5)))
        torch.testing.assert_close(together[i], alone[i], rtol=0, atol=1e-6)
    assert (together - output(network, (y, w.flip(0)))).abs().flatten(1).amax(1)[[0, 1, 3, 4]].min() > 1e-3


@pytest.mark.parametrize("w", [1.0, 1.3, 2.5, 4.0])
def test_folded_at_one_w_it_is_a_plain_network_of_diffusers_with_the_same_output(kind: str, w: float) -> None:
    network, y = one_branch(kind), inputs()[2]
    folded = networks.CLASSES[kind](**CONFIGS[kind]).eval()
    folded.load_state_dict(guidance_embedding.folded(network, w))
    wanted = output(network, (y, torch.full((5,), w)))
    # The same sum in two places of a float32 network, whose outputs are of size 1 to 8.
    torch.testing.assert_close(output(folded, y), wanted, rtol=0, atol=1e-6 * max(1.0, float(wanted.abs().max())))
    assert (output(plain(kind), y) - wanted).abs().max() > 1e-2, "the embedding of w must do something here"


def test_unfolded_weights_are_the_plain_ones_and_keep_the_embedding_of_w(kind: str) -> None:
    network, source = one_branch(kind), plain(kind)
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.add_(0.1)
    state = guidance_embedding.unfolded(network, source.state_dict())
    assert state.keys() == network.state_dict().keys()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network.load_state_dict(state)
    of_w = [name for name in before if ".scale." in name]
    assert of_w and all(torch.equal(network.state_dict()[name], before[name]) for name in of_w)
    tables = [name for name in state if ".labels." in name]
    assert len(tables) == len(guidance_embedding.embeddings(network))
    plain_state = source.state_dict()
    assert all(torch.equal(state[name], plain_state[name.replace(".labels.", ".")]) for name in tables)
    assert all(torch.equal(state[name], value) for name, value in plain_state.items() if name in state)


def test_unfolding_undoes_folding_where_the_embedding_is_new(kind: str) -> None:
    new, y = one_branch(kind, trained=False), inputs()[2]
    state = guidance_embedding.unfolded(new, guidance_embedding.folded(new, 2.0))
    assert all(torch.equal(state[name], value) for name, value in new.state_dict().items())
    assert y is not None


@pytest.mark.parametrize("some", [(2.0, 2.0), (3.0, 1.0), (-1.0, 2.0)])
def test_scales_that_are_no_range_are_refused(kind: str, some: tuple[float, float]) -> None:
    with pytest.raises(UserError, match=r"guidance_range \[.*expected two guidance scales, 0 ≤ low < high"):
        guidance_embedding.add(plain(kind), some)


def saved(kind: str, folder: Path) -> Any:
    """A one-branch, few-step student's folder; its network."""
    network = one_branch(kind)
    networks.with_own_keys(network, {networks.GRIDS: [list(grid) for grid in GRIDS]})
    networks.save(network, SCHEDULE, folder, prediction="v_prediction")
    return network


def test_a_saved_one_comes_back_with_its_range_its_grids_and_its_output(kind: str, tmp_path: Path) -> None:
    network = saved(kind, tmp_path)
    loaded = formats.load(tmp_path, role="student")
    wanted = Interface(K, SHAPE, SCHEDULE, False, "v_prediction", 1, RANGE, GRIDS)
    for name in ("num_classes", "image_shape", "prediction", "branches", "guidance_range", "grids"):
        assert getattr(loaded.interface, name) == getattr(wanted, name), name
    assert loaded.interface.schedule.sha256 == SCHEDULE.sha256
    x, t, y = inputs()
    w = torch.tensor([1.0, 1.7, 2.5, 3.2, 4.0])
    with torch.no_grad():
        expected = TorchDenoiser(network, wanted).guided(x, t, y, w)
        assert torch.equal(loaded.guided(x, t, y, w), expected)
        # Without guidance it is asked at w = 1; there is no other branch.
        assert torch.equal(loaded(x, t, y), loaded.guided(x, t, y, torch.ones(5)))
    with pytest.raises(UserError, match="this model has one branch: the guidance scale is an input"):
        loaded.branches(x, t, y)


@pytest.mark.parametrize("options", [{}, {"low_cpu_mem_usage": False}, {"use_safetensors": True}])
def test_plain_diffusers_refuses_its_folder(kind: str, tmp_path: Path, options: dict[str, bool]) -> None:
    saved(kind, tmp_path)
    with pytest.raises(OSError, match="no file named diffusion_pytorch_model"):
        networks.CLASSES[kind].from_pretrained(tmp_path, subfolder=networks.FOLDERS[kind], **options)
    # Under the name that diffusers looks for, as it once was written, it still opens here.
    folder = tmp_path / networks.FOLDERS[kind]
    (folder / networks.ONE_BRANCH_WEIGHTS).rename(folder / networks.WEIGHTS)
    assert formats.load(tmp_path, role="student").interface.branches == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"guidance_range": [4.0, 1.0]}, "guidance_range"),
        ({"guidance_range": None}, "weights and config.json do not fit together"),
        ({"timestep_grids": [[249, 999]]}, "timestep_grids: the timesteps of each must descend"),
        ({"timestep_grids": [[]]}, "timestep_grids"),
        ({"guidance_range": ["a", 2]}, "guidance_range"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_one_line(
    kind: str, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    saved(kind, tmp_path)
    path = tmp_path / networks.FOLDERS[kind] / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(UserError, match=message) as caught:
        formats.load(tmp_path, role="student")
    assert "\n" not in str(caught.value)
