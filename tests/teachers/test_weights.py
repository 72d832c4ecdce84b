"""Weights as people have them: shards, variants in half precision, .bin files and averages; damaged, one line each."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DModel

from dashdeploy.errors import UserError
from dashdeploy.teachers import formats, identity, networks, weights
from tests.made import save_teacher

INDEX = "diffusion_pytorch_model.safetensors.index.json"


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return save_teacher(tmp_path / "plain", "epsilon")


@pytest.fixture
def model(plain: Path) -> UNet2DModel:
    return UNet2DModel.from_pretrained(plain, subfolder="unet")


def resaved(plain: Path, model: UNet2DModel, folder: Path, **how: Any) -> Path:
    """The same teacher with its network saved by diffusers in another way."""
    (folder / "scheduler").mkdir(parents=True)
    source = plain / "scheduler" / "scheduler_config.json"
    (folder / "scheduler" / "scheduler_config.json").write_text(source.read_text())
    model.save_pretrained(folder / "unet", **how)
    return folder


@pytest.mark.parametrize(
    ("how", "first"),
    [
        ({"max_shard_size": "20KB"}, "diffusion_pytorch_model-00001-of-"),
        ({"safe_serialization": False}, "diffusion_pytorch_model.bin"),
        ({"safe_serialization": False, "max_shard_size": "20KB"}, "diffusion_pytorch_model-00001-of-"),
        ({"variant": "fp16"}, "diffusion_pytorch_model.fp16.safetensors"),
        ({"variant": "bf16", "max_shard_size": "20KB"}, "diffusion_pytorch_model.bf16-00001-of-"),
        ({"variant": "fp16", "safe_serialization": False}, "diffusion_pytorch_model.fp16.bin"),
    ],
)
def test_whatever_diffusers_saves_is_the_same_network(
    plain: Path, model: UNet2DModel, tmp_path: Path, how: dict[str, Any], first: str
) -> None:
    folder = resaved(plain, model, tmp_path / "other", **how)
    files = networks.weights_files(folder)
    assert files[0].name.startswith(first) and (len(files) > 1) == ("max_shard_size" in how)
    ours, theirs = (formats.load(path, role="teacher").unet.state_dict() for path in (folder, plain))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    before = identity.sha256(folder)
    files[-1].write_bytes(files[-1].read_bytes() + b" ")
    assert identity.sha256(folder) != before


def test_half_precision_is_read_into_float32(plain: Path, model: UNet2DModel, tmp_path: Path) -> None:
    folder = resaved(plain, model.to(torch.bfloat16), tmp_path / "half", variant="bf16")
    state = networks.read_weights(folder, role="teacher")
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}


def test_full_precision_is_preferred_to_a_variant_beside_it(plain: Path, model: UNet2DModel, tmp_path: Path) -> None:
    folder = resaved(plain, model, tmp_path / "both")
    model.to(torch.float16).save_pretrained(folder / "unet", variant="fp16")
    assert [path.name for path in networks.weights_files(folder)] == [networks.WEIGHTS]


def test_the_average_beside_a_network_is_taken(plain: Path, model: UNet2DModel) -> None:
    with torch.no_grad():
        model.conv_in.bias.add_(1)
    model.save_pretrained(plain / "unet_ema")
    loaded = formats.load(plain, role="teacher").unet
    assert torch.equal(loaded.conv_in.bias, model.conv_in.bias)
    own = UNet2DModel.from_pretrained(plain, subfolder="unet")
    assert not torch.equal(loaded.conv_in.bias, own.conv_in.bias)


class Harmful:
    def __reduce__(self) -> Any:
        return print, ("this must not run",)


def index_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "unet" / INDEX).read_text())


def write_index(folder: Path, held: Any) -> None:
    (folder / "unet" / INDEX).write_text(json.dumps(held))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: networks.weights_files(f)[1].unlink(), r"00002-of-\d+\.safetensors: no such file"),
        (lambda f: write_index(f, {}), "has no weight_map"),
        (lambda f: write_index(f, {"weight_map": {"a": "../x.safetensors"}}), "which is no file beside it"),
        (lambda f: (f / "unet" / INDEX).write_text("{"), "index of shards"),
        (lambda f: write_index(f, {"weight_map": {"a": min(index_of(f)["weight_map"].values())}}), "missing"),
    ],
)
def test_shards_that_are_not_whole_are_refused_in_one_line(
    plain: Path, model: UNet2DModel, tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    folder = resaved(plain, model, tmp_path / "shards", max_shard_size="20KB")
    damage(folder)
    with pytest.raises(UserError, match=message) as caught:
        formats.load(folder, role="teacher")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps({"conv_in.weight": Harmful()}), "holds more than tensors"),
        (b"no pickle", "damaged|holds more than tensors"),
    ],
)
def test_no_code_of_a_bin_file_is_run(
    plain: Path, capfd: pytest.CaptureFixture[str], content: bytes, message: str
) -> None:
    (plain / "unet" / networks.WEIGHTS).unlink()
    path = plain / "unet" / "diffusion_pytorch_model.bin"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        weights.read(plain / "unet", role="teacher")
    torch.save([1, 2], path)
    with pytest.raises(UserError, match="holds no dictionary of tensors"):
        weights.read(plain / "unet", role="teacher")
    assert "this must not run" not in capfd.readouterr().out
