"""Latents given as files, and images that are encoded once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiTTransformer2DModel

from dashdeploy.data import encode, load_dataset
from dashdeploy.data import latents as latents_files
from dashdeploy.data.images import ImageStream
from dashdeploy.errors import UserError
from dashdeploy.recipe.load import load_text
from dashdeploy.recipe.schema import Data
from dashdeploy.stages import open_run

RECIPE = """
name: latent
data: {name: latents}
student: {compression: 2.0}
distill: {steps: 2, batch_size: 4, warmup_steps: 1, threads: 1}
sampling: {clip_sample: false}
"""


def arrays(n: int = 6, *, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    latents = rng.normal(scale=3, size=(n, 4, 8, 8)).astype(np.float32)
    return {"latents": latents, "labels": np.arange(n) % 3}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """Two files in a folder, of which the first names the classes."""
    folder = tmp_path / "latents"
    folder.mkdir()
    np.savez(folder / "a.npz", **arrays(), classes=np.array(["cat", "dog", "hen"]))
    np.savez(folder / "b.npz", **arrays(4, seed=1))
    return folder


def test_latents_reach_the_training_as_they_are(saved: Path) -> None:
    data = load_dataset(Data(name="latents", path=str(saved)))
    assert data.are_latents and data.image_shape == (4, 8, 8) and len(data) == 10
    assert data.classes == ("cat", "dog", "hen")
    x, y = ImageStream(data, batch_size=10, seed=0).batch(0)
    assert x.dtype == np.float32 and np.abs(x).max() > 1
    given = np.concatenate([arrays()["latents"], arrays(4, seed=1)["latents"]])
    np.testing.assert_array_equal(np.sort(x, axis=None), np.sort(given, axis=None))
    assert set(y) == {0, 1, 2}


def test_without_names_the_classes_are_numbers_and_half_precision_is_taken(tmp_path: Path) -> None:
    made = arrays()
    np.savez(tmp_path / "x.npz", latents=made["latents"].astype(np.float16), labels=made["labels"])
    data = load_dataset(Data(name="latents", path=str(tmp_path / "x.npz")))
    assert data.classes == ("0", "1", "2") and data.images.dtype == np.float16


@pytest.mark.parametrize("order", [["dog", "cat", "hen"], ["cat", "dog"], ["cat", "dog", "hen", "owl"]])
def test_files_that_name_their_classes_otherwise_are_refused(saved: Path, order: list[str]) -> None:
    np.savez(saved / "b.npz", **arrays(4, seed=1), classes=np.array(order))
    with pytest.raises(UserError, match=r"b\.npz: its classes are not those of .*a\.npz, in their order"):
        load_dataset(Data(name="latents", path=str(saved)))


def test_an_array_that_is_not_in_an_archive_is_called_so(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", arrays()["latents"])
    with pytest.raises(UserError, match=r"x\.npy: not a whole \.npz file; expected"):
        load_dataset(Data(name="latents", path=str(tmp_path / "x.npy")))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": None}, "has no labels; expected arrays latents"),
        ({"latents": np.zeros((6, 4, 8, 8), np.uint8)}, r"latents is \(6, 4, 8, 8\) uint8"),
        ({"latents": np.zeros((6, 4, 8, 4), np.float32)}, r"latents is \(6, 4, 8, 4\) float32"),
        ({"latents": np.full((6, 4, 8, 8), np.nan, np.float32)}, "NaN or Inf"),
        ({"latents": np.zeros((6, 0, 8, 8), np.float32)}, "holds no value"),
        ({"labels": np.full(6, 2**63 + 1, np.uint64)}, "labels go from 9223372036854775809"),
        ({"classes": np.array(["a", "b", "a"])}, "two of its 3 classes are named 'a'"),
        ({"labels": np.zeros(5, np.int64)}, r"labels is \(5,\) int64 for 6 latents"),
        ({"labels": np.array([object()] * 6)}, "without pickled objects"),
    ],
)
def test_another_file_is_refused_with_what_is_expected(tmp_path: Path, change: dict, message: str) -> None:
    made = {name: value for name, value in {**arrays(), **change}.items() if value is not None}
    np.savez(tmp_path / "x.npz", **made)
    with pytest.raises(UserError, match=message):
        load_dataset(Data(name="latents", path=str(tmp_path / "x.npz")))


def test_missing_paths_and_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"set data\.path to an \.npz file"):
        load_dataset(Data(name="latents"))
    with pytest.raises(UserError, match=r"x\.npz: no such file"):
        load_dataset(Data(name="latents", path=str(tmp_path / "x.npz")))
    with pytest.raises(UserError, match=r"has no \.npz files"):
        load_dataset(Data(name="latents", path=str(tmp_path)))
    (tmp_path / "y.npz").write_bytes(b"PK no zip")
    with pytest.raises(UserError, match=r"y\.npz: not a whole \.npz"):
        load_dataset(Data(name="latents", path=str(tmp_path / "y.npz")))


# Encoded once


def test_a_label_that_would_make_a_billion_classes_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", **{**arrays(2), "labels": np.array([0, 2**40])})
    with pytest.raises(UserError, match="would make as many classes"):
        load_dataset(Data(name="latents", path=str(tmp_path / "x.npz")))


@pytest.fixture
def vae(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    torch.manual_seed(0)
    torch.set_num_threads(1)
    made = AutoencoderKL(
        in_channels=1,
        out_channels=1,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(4, 4),
        norm_num_groups=2,
        latent_channels=4,
        scaling_factor=0.5,
    )
    made.save_pretrained(tmp_path / "vae")
    return tmp_path / "vae"


def test_images_are_encoded_once_by_the_mean_times_the_scale(vae: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = load_dataset(Data(name="digits", vae=str(vae)))
    plain = load_dataset(Data(name="digits"))
    assert data.are_latents and data.image_shape == (4, 4, 4) and data.classes == plain.classes
    autoencoder = AutoencoderKL.from_pretrained(vae).eval()
    with torch.no_grad():
        x = torch.from_numpy(plain.images[:5].astype(np.float32) / 127.5 - 1)
        expected = autoencoder.encode(x).latent_dist.mean * 0.5
    np.testing.assert_allclose(data.images[:5], expected.numpy(), rtol=1e-4, atol=1e-5)
    monkeypatch.setattr(encode, "encode", lambda *a: pytest.fail("encoded again"))
    again = load_dataset(Data(name="digits", vae=str(vae)))
    assert again.sha256 == data.sha256


def test_an_autoencoder_that_is_not_there_or_of_other_channels_is_refused(vae: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.vae .*no such folder\. Expected that of an autoencoder"):
        load_dataset(Data(name="digits", vae=str(tmp_path / "none")))
    rgb = np.zeros((2, 3, 8, 8), np.uint8)
    images = encode.LabelledImages("x", rgb, np.zeros(2, np.int64), ("a",), False)
    with pytest.raises(UserError, match="its images have 1 channels, and these have 3"):
        encode.encoded(images, vae)
    (vae / "diffusion_pytorch_model.safetensors").write_bytes(b"cut")
    with pytest.raises(UserError, match="not a whole AutoencoderKL with its weights"):
        load_dataset(Data(name="digits", vae=str(vae)))


def test_latents_that_are_damaged_in_the_cache_are_encoded_again(vae: Path, tmp_path: Path) -> None:
    made = load_dataset(Data(name="digits", vae=str(vae)))
    (kept,) = (tmp_path / "cache" / "dashdeploy" / "latents").glob("*.npz")
    whole = kept.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 4
    for content in (whole[: len(whole) // 2], bytes(flipped), b""):
        kept.write_bytes(content)
        assert load_dataset(Data(name="digits", vae=str(vae))).sha256 == made.sha256
        assert kept.read_bytes() == whole
    kept.unlink()
    assert load_dataset(Data(name="digits", vae=str(vae))).sha256 == made.sha256


def test_latents_are_known_by_what_they_were_encoded_from_and_not_by_their_last_bits(
    vae: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Data(name="digits", vae=str(vae))
    here, plain = load_dataset(config), encode.encode
    (kept,) = (tmp_path / "cache" / "dashdeploy" / "latents").glob("*.npz")
    kept.unlink()
    monkeypatch.setattr(encode, "encode", lambda *args, **more: plain(*args, **more) * np.float32(1 + 1e-6))
    there = load_dataset(config)
    assert (there.images != here.images).any() and there.sha256 == here.sha256
    rows = np.arange(5)
    assert there.take(rows).sha256 == here.take(rows).sha256
    assert len({here.sha256, here.take(rows).sha256, here.take(rows + 1).sha256}) == 3
    unflipped = load_dataset(config.model_copy(update={"horizontal_flip": True}))
    changed = vae / "config.json"
    changed.write_text(changed.read_text().replace('"scaling_factor": 0.5', '"scaling_factor": 0.25'))
    assert len({here.sha256, unflipped.sha256, load_dataset(config).sha256}) == 3


def test_one_file_is_not_held_twice() -> None:
    latents = arrays()["latents"]
    assert latents_files._joined([latents]) is latents
    assert len(latents_files._joined([latents, latents])) == 12


# From the recipe to the artifact


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    network = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, out_channels=8, num_layers=2, sample_size=8, num_embeds_ada_norm=3
    )
    network.save_pretrained(tmp_path / "teacher" / "transformer")
    DDIMScheduler().save_pretrained(tmp_path / "teacher" / "scheduler")
    return tmp_path / "teacher"


def test_a_dit_on_latents_is_distilled_and_what_needs_images_is_refused(
    saved: Path, teacher: Path, tmp_path: Path
) -> None:
    from dashdeploy.bench.bench import bench
    from dashdeploy.cli.app import main
    from dashdeploy.export.export import export
    from dashdeploy.target import load_target
    from dashdeploy.training.distill import distill

    recipe = load_text(
        RECIPE, name="latent", overrides=[f"teacher={{path: {teacher}, check: false}}", f"data.path={saved}"]
    )
    folder = open_run(tmp_path, "latent")
    stage = distill(recipe, folder)
    assert DiTTransformer2DModel.from_pretrained(stage.folder, subfolder="transformer").config.in_channels == 4
    target = load_target("onnx-cpu")
    of_bytes = target.model_copy(update={"sampler": target.sampler.model_copy(update={"output": "uint8"})})
    with pytest.raises(UserError, match=r"latents"):
        export(folder, of_bytes)
    with pytest.raises(UserError, match="its data are latents, and the benchmark measures images"):
        bench(folder, recipe)
    with pytest.raises(SystemExit) as caught:
        main(["sample", str(stage.folder), "--out", str(tmp_path / "x.png")])
    assert caught.value.code == 2


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["sampling.clip_sample=true"], r"set sampling\.clip_sample to false"),
        (["data.image_size=8"], "leave out image_size"),
        (["data.horizontal_flip=true"], "leave out horizontal_flip"),
    ],
)
def test_a_recipe_that_would_harm_latents_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_text(RECIPE, name="x", overrides=["teacher.path=there", *overrides])
