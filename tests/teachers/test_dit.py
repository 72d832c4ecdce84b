from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, DiTTransformer2DModel
from safetensors.torch import load_file, save_file

from dashdeploy.diffusion import schedule
from dashdeploy.errors import UserError
from dashdeploy.recipe.schema import DiT, NoiseSchedule
from dashdeploy.teachers import dit, formats, networks

K = 4
SMALL = DiT(num_layers=2, num_attention_heads=2, attention_head_dim=8)
SCHEDULE = schedule.from_recipe(NoiseSchedule())


@pytest.fixture
def pipeline(tmp_path: Path) -> Path:
    """A DiT with learned variance as diffusers' DiTPipeline stores it, on latents of 3 channels."""
    torch.manual_seed(0)
    config = {**dit.dit_config(SMALL, image_shape=(3, 8, 8), num_classes=K), "out_channels": 6}
    DiTTransformer2DModel(**config).save_pretrained(tmp_path / "model" / "transformer")
    DDIMScheduler().save_pretrained(tmp_path / "model" / "scheduler")
    (tmp_path / "model" / "vae").mkdir()
    save_file({"x": torch.zeros(1)}, tmp_path / "model" / "vae" / networks.WEIGHTS)
    return tmp_path / "model"


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    x = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return x, torch.tensor([0, 500, 999]), torch.tensor([0, K - 1, K])


def edit(path: Path, **changes: object) -> None:
    config = json.loads(path.read_text())
    config.update(changes)
    path.write_text(json.dumps(config))


def test_eps_is_the_first_half_of_what_diffusers_gives_for_the_null_class_too(pipeline: Path) -> None:
    ours = formats.load(pipeline, role="teacher")
    theirs = DiTTransformer2DModel.from_pretrained(pipeline, subfolder="transformer").eval()
    x, t, y = inputs()
    with torch.no_grad():
        expected = theirs(x, timestep=t, class_labels=y).sample
        assert expected.shape[1] == 6
        assert torch.equal(ours(x, t, y), expected[:, :3])
        uncond, cond = ours.branches(x, t, y)
    torch.testing.assert_close(cond, expected[:, :3], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(uncond[0], cond[0])
    assert (ours.interface.num_classes, ours.interface.image_shape) == (K, (3, 8, 8))
    assert ours.interface.schedule.num_train_timesteps == 1000


def test_no_label_is_dropped_in_train_mode() -> None:
    network = networks.create(dit.dit_config(SMALL, image_shape=(1, 8, 8), num_classes=K), network=networks.DIT)
    embedders = [block.norm1.emb.class_embedder for block in network.train().transformer_blocks]
    # diffusers drops a tenth: among 400 labels none is the null class by chance once in 10¹⁸ draws.
    labels = torch.zeros(400, dtype=torch.int64)
    for embedder in embedders:
        assert torch.equal(embedder(labels), embedder.embedding_table(labels))


def test_a_saved_student_loads_here_and_in_plain_diffusers(tmp_path: Path) -> None:
    network = networks.create(dit.dit_config(SMALL, image_shape=(1, 8, 8), num_classes=K), network=networks.DIT)
    networks.save(network, SCHEDULE, tmp_path)
    x, t, y = inputs()
    theirs = DiTTransformer2DModel.from_pretrained(tmp_path, subfolder="transformer").eval()
    with torch.no_grad():
        expected = theirs(x[:, :1], timestep=t, class_labels=y).sample
        assert torch.equal(dit.load(tmp_path)(x[:, :1], t, y), expected)
    assert expected.shape == (3, 1, 8, 8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_embeds_ada_norm": None}, "num_embeds_ada_norm must be given as whole numbers"),
        ({"out_channels": 5}, "out_channels is 5; expected 3 as in_channels, or 6 where the variance is learned"),
        ({"num_embeds_ada_norm": K + 1}, "no.* null class"),
        ({"num_embeds_ada_norm": K - 1}, f"has {K + 1} rows.*Set num_embeds_ada_norm to {K}"),
        ({"num_layers": 3}, "do not fit together"),
    ],
)
def test_a_model_that_does_not_fit_is_refused_with_what_to_do(pipeline: Path, changes: dict, message: str) -> None:
    edit(pipeline / "transformer" / "config.json", **changes)
    with pytest.raises(UserError, match=message) as caught:
        dit.load(pipeline)
    assert "\n" not in str(caught.value)


def test_a_model_without_the_null_class_is_refused_with_the_reason(pipeline: Path) -> None:
    path = pipeline / "transformer" / networks.WEIGHTS
    tensors = {k: v[:-1].clone() if "embedding_table" in k else v for k, v in load_file(path).items()}
    save_file(tensors, path)
    with pytest.raises(UserError, match="4 rows for 4 classes and none for the null class"):
        dit.load(pipeline)


def test_weights_under_another_name_are_named_with_what_is_expected(pipeline: Path) -> None:
    path = pipeline / "transformer" / networks.WEIGHTS
    path.rename(path.with_name("model.safetensors"))
    with pytest.raises(UserError, match=r"no such file.*save_pretrained"):
        dit.load(pipeline)


def test_an_image_that_is_not_whole_patches_is_refused() -> None:
    with pytest.raises(UserError, match=r"student\.dit\.patch_size 2 does not divide images or latents of side 9"):
        dit.dit_config(SMALL, image_shape=(1, 9, 9), num_classes=K)
