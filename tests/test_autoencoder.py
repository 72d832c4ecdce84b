"""Autoencoders of three classes: latents as the pipelines take them, shapes, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from dashdeploy.autoencoder import Autoencoder, finite_clip, open_autoencoder, sha256
from dashdeploy.errors import UserError
from tests import latent

WEIGHTS = "diffusion_pytorch_model.safetensors"
OF_EACH_CLASS = [latent.kl(shift_factor=0.1), latent.tiny(), latent.dc()]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    Autoencoder(latent.kl(), source="kl").save(tmp_path / "vae")
    return tmp_path / "vae"


@pytest.mark.parametrize("inner", OF_EACH_CLASS, ids=lambda inner: type(inner).__name__)
def test_latents_are_scaled_and_shifted_as_diffusers_pipelines_do(inner: Any, tmp_path: Path) -> None:
    made = Autoencoder(inner, source="x")
    images = torch.rand(3, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        encoded = inner.encode(images, return_dict=False)[0]
        plain = encoded if isinstance(encoded, torch.Tensor) else encoded.mode()
        shift = getattr(inner.config, "shift_factor", None) or 0
        latents = made.encode(images)
        torch.testing.assert_close(latents, (plain - shift) * inner.config.scaling_factor)
        expected = inner.decode(latents / inner.config.scaling_factor + shift, return_dict=False)[0]
    torch.testing.assert_close(made.decode(latents, at_once=2), expected.clamp(-1, 1))
    made.save(tmp_path / "again")
    again = open_autoencoder(tmp_path / "again", source="again")
    torch.testing.assert_close(again.decode(latents), made.decode(latents))
    assert made.latent_shape((3, 16, 16)) == (4, 4, 4) and made.image_shape((4, 4, 4)) == (3, 16, 16)


@pytest.mark.parametrize("variant", ["fp16", "bf16"])
@pytest.mark.parametrize("shards", [{}, {"max_shard_size": "20KB"}], ids=["whole", "sharded"])
def test_weights_that_are_there_in_half_precision_alone_are_opened(
    tmp_path: Path, variant: str, shards: dict[str, str]
) -> None:
    half = latent.kl().to(getattr(torch, {"fp16": "float16", "bf16": "bfloat16"}[variant]))
    half.save_pretrained(tmp_path, variant=variant, **shards)
    assert len(list(tmp_path.glob(f"*{variant}*"))) > bool(shards)
    opened = open_autoencoder(tmp_path, source="x")
    for name, tensor in half.state_dict().items():
        assert torch.equal(opened.inner.state_dict()[name], tensor.float())
    latent.kl().save_pretrained(tmp_path)  # full precision comes first
    assert torch.equal(
        open_autoencoder(tmp_path, source="x").inner.state_dict()["quant_conv.weight"],
        latent.kl().state_dict()["quant_conv.weight"],
    )


def test_a_latent_is_a_function_of_its_image() -> None:
    made, images = Autoencoder(latent.kl(), source="x"), torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(made.encode(images), made.encode(images))


def test_clipping_keeps_what_is_not_finite() -> None:
    given = torch.tensor([-3.0, -0.5, 2.0, torch.nan, torch.inf, -torch.inf])
    clipped = finite_clip(given)
    assert clipped[:3].tolist() == [-1.0, -0.5, 1.0]
    assert clipped[3].isnan() and clipped[4:].isinf().all()


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((3, 18, 18), "does not give images of 18×18 pixels back in their size"),
        ((1, 16, 16), "its images have 3 channels, and these have 1"),
    ],
)
def test_images_that_it_does_not_give_back_are_refused(shape: tuple[int, int, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Autoencoder(latent.kl(), source="x").latent_shape(shape)


def test_other_latents_are_refused() -> None:
    made = Autoencoder(latent.kl(), source="the vae")
    with pytest.raises(UserError, match="the vae: its latents have 4 channels, and these have 8"):
        made.image_shape((8, 4, 4))
    with pytest.raises(UserError, match="to no grey or RGB images"):
        Autoencoder(latent.kl(channels=5), source="x").image_shape((4, 4, 4))


def set_config(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def set_weights(folder: Path, change: Any) -> None:
    state = load_file(folder / WEIGHTS)
    change(state)
    save_file(state, folder / WEIGHTS)


def poison(state: dict[str, torch.Tensor]) -> None:
    state["decoder.conv_in.bias"][0] = torch.nan


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "it has no config.json"),
        (lambda f: (f / "config.json").write_text("{"), "config"),
        (lambda f: set_config(f, _class_name="VQModel"), "it is a VQModel; supported: AutoencoderKL"),
        (lambda f: set_config(f, latents_mean=[0.0] * 4), "latents_mean and latents_std"),
        (lambda f: set_config(f, scaling_factor=0.0), "scaling_factor is 0.0"),
        (lambda f: set_config(f, block_out_channels=[8, 8, 32]), "not a whole AutoencoderKL|do not fit together"),
        (lambda f: (f / WEIGHTS).unlink(), "not a whole AutoencoderKL"),
        (lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:-9]), "not a whole AutoencoderKL"),
        (lambda f: set_weights(f, lambda s: s.pop("decoder.conv_in.bias")), "1 tensors are missing"),
        (lambda f: set_weights(f, poison), "decoder.conv_in.bias holds NaN or Inf"),
    ],
)
def test_what_is_no_whole_autoencoder_is_refused_in_one_line(saved: Path, damage: Any, message: str) -> None:
    damage(saved)
    with pytest.raises(UserError, match=message) as caught:
        open_autoencoder(saved, source=f"data.vae {saved}")
    assert "\n" not in str(caught.value) and str(saved) in str(caught.value)


def test_its_hash_is_over_configuration_and_weights(saved: Path) -> None:
    before = sha256(saved)
    (saved / "README.md").write_text("x")
    assert sha256(saved) == before
    set_weights(saved, lambda state: state["decoder.conv_in.bias"].add_(1))
    assert sha256(saved) != before
