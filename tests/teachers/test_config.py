"""A model's configuration is checked before diffusers builds of it: what is wrong is one line, within seconds."""

from __future__ import annotations

import json
import random
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DiTTransformer2DModel, UNet2DModel
from safetensors.torch import load_file, save_file

from dashdeploy.diffusion import schedule
from dashdeploy.errors import UserError
from dashdeploy.recipe.architecture import Architecture, DiT
from dashdeploy.recipe.schema import NoiseSchedule
from dashdeploy.teachers import dit, formats, networks, unet2d

SCHEDULE = schedule.from_recipe(NoiseSchedule())
SMALL = Architecture(block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, attention_levels=(1,))
UNET, DIT, SCHEDULER = "unet/config.json", "transformer/config.json", "scheduler/scheduler_config.json"
ODD_VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 3, 7, 2**31, 2**63, 10**30, 1e-300, 1e300, 0.5, "", "x", "a\0b", "é" * 300),
    *([], [0], [-1], [1, 2, 3], [8, 16], [10**9, 10**9], ["x"], {}, {"a": 1}, [[8]], [None]),
]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small model folder of either kind."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    torch.set_num_threads(1)
    networks.save(unet2d.build(SMALL, image_shape=(1, 8, 8), num_classes=4, seed=0), SCHEDULE, folder / "unet")
    small = DiT(num_layers=1, num_attention_heads=2, attention_head_dim=8)
    config = dit.dit_config(small, image_shape=(1, 8, 8), num_classes=4)
    networks.save(networks.create(config, network=networks.DIT), SCHEDULE, folder / "dit")
    return {name: folder / name for name in ("unet", "dit")}


@pytest.fixture
def changed(models: dict[str, Path], tmp_path: Path):
    """Write a JSON file of a model anew; returns the model's folder, whose other files are links."""

    def change(kind: str, file: str, content: Any) -> Path:
        folder = tmp_path / "model"
        for path in [p for p in models[kind].rglob("*") if p.is_file()]:
            link = folder / path.relative_to(models[kind])
            link.parent.mkdir(parents=True, exist_ok=True)
            link.unlink(missing_ok=True)
            link.symlink_to(path)
        (folder / file).unlink()
        (folder / file).write_text(json.dumps(content))
        return folder

    return change


def values(models: dict[str, Path], kind: str, file: str) -> dict[str, Any]:
    return json.loads((models[kind] / file).read_text())


@pytest.mark.parametrize(
    ("kind", "file", "change", "message"),
    [
        ("unet", UNET, {"class_embed_type": "identity"}, "class_embed_type 'identity' takes labels as numbers or vec"),
        ("unet", UNET, {"class_embed_type": "timestep"}, "class_embed_type 'timestep'"),
        ("unet", UNET, {"block_out_channels": "wide"}, "block_out_channels: must be a valid (tuple|array)"),
        ("unet", UNET, {"block_out_channels": [8, 18]}, "block_out_channels 18 is not a multiple of norm_num_groups 4"),
        ("unet", UNET, {"block_out_channels": [8, 16, 16]}, "must be equally long"),
        ("unet", UNET, {"block_out_channels": [65536, 65536]}, "do not fit together: .* have other shapes"),
        ("unet", UNET, {"layers_per_block": 10**9}, "layers_per_block: .*256"),
        ("unet", UNET, {"layers_per_block": 250}, "do not fit together: .* tensors are missing"),
        ("unet", UNET, {"down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"]}, "down_block_types.1: "),
        ("unet", UNET, {"norm_num_groups": "4"}, "norm_num_groups: must be a valid integer"),
        ("unet", UNET, {"norm_epps": 1e-6}, "norm_epps"),
        ("unet", UNET, {"sample_size": 10**9}, "sample_size"),
        ("unet", UNET, {"_class_name": ["UNet2DModel"]}, "_class_name must be the name of a model's class"),
        ("dit", DIT, {"num_layers": 10**7}, "num_layers: "),
        ("dit", DIT, {"sample_size": 4096, "patch_size": 1}, "more than 16384 patches"),
        ("dit", DIT, {"patch_size": 3}, "patch_size 3 does not divide sample_size 8"),
        ("dit", DIT, {"norm_type": "ada_norm_single"}, "norm_type"),
        ("dit", DIT, {"attention_head_dim": 0}, "attention_head_dim: must be greater than or equal to 1"),
        ("unet", SCHEDULER, {"num_train_timesteps": "many"}, "num_train_timesteps: must be a valid integer"),
        ("unet", SCHEDULER, {"num_train_timesteps": 10**12, "trained_betas": None}, "num_train_timesteps"),
        ("unet", SCHEDULER, {"trained_betas": [0.1, "x"]}, "trained_betas.1"),
        ("unet", SCHEDULER, {"trained_beta": [0.1]}, "unknown key 'trained_beta'. Did you mean 'trained_betas'"),
        ("unet", SCHEDULER, {"clip_sample": "yes"}, "clip_sample"),
    ],
)
def test_what_no_teacher_says_is_one_line_at_once(models, changed, kind, file, change, message: str) -> None:
    folder = changed(kind, file, {**values(models, kind, file), **change})
    began = time.perf_counter()
    with pytest.raises(UserError, match=message) as caught:
        formats.load(folder, role="teacher")
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)
    assert time.perf_counter() - began < 30


@pytest.mark.parametrize(("kind", "file"), [("unet", UNET), ("dit", DIT), ("unet", SCHEDULER), ("dit", SCHEDULER)])
def test_a_mutated_configuration_loads_or_is_refused_in_one_line(models, changed, kind: str, file: str) -> None:
    draw = random.Random(f"{kind} {file}")
    refused = 0
    for _ in range(60):
        content: Any = values(models, kind, file)
        for _ in range(draw.randint(1, 3)):
            key = draw.choice(sorted(content))
            change = draw.choice(("value", "value", "drop", "rename", "scale"))
            old = content.pop(key)
            if change == "value":
                content[key] = draw.choice(ODD_VALUES)
            elif change == "rename":
                content[key[:-1] + draw.choice("xyz")] = old
            elif change == "scale" and isinstance(old, int | float):
                content[key] = old * draw.choice((-1, 2, 1000, 10**12))
        folder = changed(kind, file, draw.choice((content, content, content, content, [content], "text", None)))
        try:
            model = formats.load(folder, role="teacher")
        except UserError as error:
            assert "\n" not in str(error)
            refused += 1
        else:
            c, h, w = model.interface.image_shape
            assert model(torch.zeros(1, c, h, w), torch.tensor([1]), torch.tensor([0])).shape == (1, c, h, w)
    assert refused > 20


def test_attention_under_its_old_names_computes_as_in_diffusers(models, tmp_path: Path) -> None:
    renamed = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    unet = UNet2DModel.from_pretrained(models["unet"], subfolder="unet")
    unet.save_pretrained(tmp_path / "unet")
    DDIMScheduler().save_pretrained(tmp_path / "scheduler")
    old = {}
    for name, tensor in load_file(models["unet"] / "unet" / networks.WEIGHTS).items():
        for present, before in renamed.items():
            name = name.replace(f".{present}.", f".{before}.")
        old[name] = tensor
    assert sum(".query." in name for name in old) > 0 and not any(".to_q." in name for name in old)
    save_file(old, tmp_path / "unet" / networks.WEIGHTS, {"format": "pt"})
    theirs = UNet2DModel.from_pretrained(tmp_path, subfolder="unet").eval()
    x, t, y = torch.randn(3, 1, 8, 8), torch.tensor([0, 500, 999]), torch.tensor([0, 3, 4])
    with torch.no_grad():
        assert torch.equal(formats.load(tmp_path, role="teacher")(x, t, y), theirs(x, t, class_labels=y).sample)


def test_a_dit_under_its_old_class_computes_as_in_diffusers(models, changed) -> None:
    config = values(models, "dit", DIT)
    legacy = {"cross_attention_dim": None, "double_self_attention": False, "num_vector_embeds": None}
    folder = changed("dit", DIT, {**config, **legacy, "_class_name": "Transformer2DModel", "attention_type": "default"})
    theirs = DiTTransformer2DModel.from_pretrained(models["dit"], subfolder="transformer").eval()
    x, t, y = torch.randn(2, 1, 8, 8), torch.tensor([0, 999]), torch.tensor([0, 4])
    with torch.no_grad():
        assert torch.equal(formats.load(folder, role="teacher")(x, t, y), theirs(x, t, class_labels=y).sample)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: {**t, "conv_in.bias": t["conv_in.bias"].int()}, "conv_in.bias is stored as int32"),
        (lambda t: {k: v.to(torch.float8_e4m3fn) for k, v in t.items()}, "is stored as float8_e4m3fn"),
        (lambda t: {**t, "more": torch.zeros(2)}, "1 are not its own, such as more"),
        (lambda t: {k: v for k, v in t.items() if k != "conv_in.bias"}, "1 tensors are missing, such as conv_in.bias"),
        (lambda t: {**t, "conv_in.bias": torch.zeros(3)}, r"such as conv_in.bias: \(3,\) and not \(8,\)"),
        (lambda t: {}, "tensors are missing"),
    ],
)
def test_weights_of_another_network_or_number_are_named(models, changed, change, message: str) -> None:
    folder = changed("unet", UNET, values(models, "unet", UNET))
    path = folder / "unet" / networks.WEIGHTS
    tensors = load_file(path)
    path.unlink()
    save_file(change(tensors), path)
    with pytest.raises(UserError, match=message) as caught:
        formats.load(folder, role="teacher")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("unet", {"out_channels": 3}, "out_channels is 3; expected 1 as in_channels, or 2"),
        ("unet", {"attention_head_dim": 64}, "block_out_channels 16 has attention and is narrower than a head"),
        ("unet", {"norm_num_groups": 3}, r"config\.json: its values: block_out_channels 8 is not a multiple"),
        ("unet", {"foo": 1}, "foo: is no key that is known here"),
        ("dit", {"out_channels": 3}, "out_channels is 3; expected 1"),
    ],
)
def test_a_network_that_cannot_be_right_is_told_in_plain_words(
    models: dict[str, Path], changed, kind: str, change: dict[str, Any], message: str
) -> None:
    file = UNET if kind == "unet" else DIT
    config = json.loads((models[kind] / file).read_text())
    with pytest.raises(UserError, match=message):
        formats.load(changed(kind, file, config | change), role="teacher")


def test_a_network_that_does_not_take_its_images_is_refused_when_it_is_opened(tmp_path: Path) -> None:
    deep = Architecture(block_out_channels=(8,) * 4, layers_per_block=1, norm_num_groups=4)
    config = unet2d.unet_config(deep, image_shape=(1, 8, 8), num_classes=4) | {"sample_size": 6}
    networks.save(networks.create(config), SCHEDULE, tmp_path)
    with pytest.raises(UserError, match="cannot take images of 6×6 pixels"):
        formats.load(tmp_path, role="teacher")


def test_a_folder_of_two_models_and_a_link_that_is_lost_are_told(models: dict[str, Path], tmp_path: Path) -> None:
    for kind in ("unet", "dit"):
        shutil.copytree(models[kind], tmp_path / "both", dirs_exist_ok=True)
    with pytest.raises(UserError, match="holds both unet/ and transformer/"):
        formats.load(tmp_path / "both", role="teacher")
    (tmp_path / "lost").mkdir()
    (tmp_path / "lost" / "unet").symlink_to("nowhere")
    with pytest.raises(UserError, match="lost/unet: a link to nowhere, which is not there"):
        formats.load(tmp_path / "lost", role="teacher")


def test_weights_that_float32_does_not_hold_are_refused(models: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(models["unet"], tmp_path / "wide")
    path = tmp_path / "wide" / "unet" / networks.WEIGHTS
    state = load_file(path)
    save_file(state | {"conv_in.bias": torch.full((8,), 1e300, dtype=torch.float64)}, path)
    with pytest.raises(UserError, match=r"conv_in\.bias holds NaN or Inf\. Its values do not fit into float32"):
        formats.load(tmp_path / "wide", role="teacher")
