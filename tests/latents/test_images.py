"""From a latent DiT's pipeline and a folder of pictures to images, by every road that Python has."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image

import dashdeploy
from dashdeploy import manifest, stages
from dashdeploy.autoencoder import Autoencoder
from dashdeploy.bench.bench import bench
from dashdeploy.bench.record.record import STUDENT, TEACHER, load_record
from dashdeploy.cli.app import main
from dashdeploy.data import load_dataset, load_stored, pictures_of
from dashdeploy.data.images import ImageStream
from dashdeploy.diffusion.sampling import Plan, initial_noise, plan
from dashdeploy.errors import UserError
from dashdeploy.export.export import export
from dashdeploy.recipe.load import load_recipe
from dashdeploy.recipe.schema import Recipe
from dashdeploy.runtime.model import Model
from dashdeploy.runtime.opening import open_path
from dashdeploy.target import Target, load_target
from tests import latent

pytestmark = pytest.mark.usefixtures("cache")

Y = torch.tensor([0, 1, 2, 2, 1])


@pytest.fixture(scope="module")
def recipe(latent_folder: Path) -> Recipe:
    return load_recipe(latent_folder / "recipe.yaml")


def command(arguments: list[str]) -> Any:
    """The exit code of a command."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    return caught.value.code


def plan_of(model: Model, **changes: Any) -> Plan:
    section = model.sampling.model_copy(update=changes)
    return plan(section, model.denoiser.interface.schedule.num_train_timesteps)


def noise_of(model: Model, run: Plan, count: int = len(Y)) -> torch.Tensor:
    return initial_noise(5, 0, count, model.denoiser.interface.noise_shape(run))


@pytest.fixture(scope="module")
def reference(latent_run: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """(latents, images) of the student, decoded by diffusers' own autoencoder."""
    with open_path(latent_run / "student") as model:
        run = plan_of(model)
        latents = model.sample(noise_of(model, run), Y, run, decode=False)
    vae = AutoencoderKL.from_pretrained(latent_run / "student" / "vae")
    with torch.no_grad():
        images = vae.decode(latents / vae.config.scaling_factor + vae.config.shift_factor).sample
    return latents, images.clamp(-1, 1)


# Data


def test_the_pipelines_autoencoder_is_the_recipes(recipe: Recipe, latent_folder: Path) -> None:
    assert recipe.data.vae == str(latent_folder / "pipeline" / "vae") and recipe.data.gives_latents
    named = load_recipe(latent_folder / "recipe.yaml", overrides=["data.vae=null"])
    assert named.data.vae is None


def test_mirrored_images_are_encoded_and_not_mirrored_latents(recipe: Recipe) -> None:
    data, pictures = load_dataset(recipe.data), pictures_of(load_stored(recipe.data), recipe.data)
    assert data.are_latents and data.horizontal_flip and data.mirrored is not None
    assert pictures.images.shape == (30, 3, 16, 16) and pictures.images.dtype == np.uint8
    assert (pictures.labels == data.labels).all()
    vae = AutoencoderKL.from_pretrained(recipe.data.vae)
    flipped = torch.from_numpy(pictures.images[:4, :, :, ::-1].astype(np.float32) / 127.5 - 1)
    with torch.no_grad():
        expected = (vae.encode(flipped).latent_dist.mean - vae.config.shift_factor) * vae.config.scaling_factor
    np.testing.assert_allclose(data.mirrored[:4], expected, atol=1e-5)
    assert np.abs(data.mirrored[:4] - data.images[:4, :, :, ::-1]).max() > 1e-3
    stream = ImageStream(data, batch_size=30, seed=0)
    batch, _ = stream.batch(0)
    rows = stream.rows(0)
    straight = (batch == data.images[rows]).all((1, 2, 3))
    mirrored = (batch == data.mirrored[rows]).all((1, 2, 3))
    assert (straight ^ mirrored).all() and 5 < mirrored.sum() < 25
    part = data.take(np.array([3, 4]))
    assert part.mirrored is not None and (part.mirrored == data.mirrored[3:5]).all()
    unflipped = load_dataset(recipe.data.model_copy(update={"horizontal_flip": False}))
    assert unflipped.mirrored is None and unflipped.sha256 != data.sha256


def test_latents_given_as_files_are_decoded_for_the_reference(recipe: Recipe, tmp_path: Path) -> None:
    data = load_dataset(recipe.data)
    np.savez(tmp_path / "x.npz", latents=data.images, labels=data.labels, classes=np.array(data.classes))
    given = recipe.data.model_copy(update={"name": "latents", "path": str(tmp_path / "x.npz"), "horizontal_flip": None})
    pictures = pictures_of(load_stored(given), given)
    made = Autoencoder(AutoencoderKL.from_pretrained(recipe.data.vae), source="x")
    expected = ((made.decode(torch.from_numpy(data.images)) + 1) * 127.5).round()
    assert (torch.from_numpy(pictures.images).float() - expected).abs().max() <= 1
    with pytest.raises(UserError, match=r"data\.name latents without data\.vae"):
        pictures_of(load_stored(given), given.model_copy(update={"vae": None}))


# Drawing


def test_the_student_is_a_pipeline_with_its_autoencoder(
    latent_run: Path, reference: tuple[torch.Tensor, torch.Tensor]
) -> None:
    with open_path(latent_run / "student") as model:
        run = plan_of(model)
        assert model.denoiser.interface.image_shape == latent.LATENT
        assert model.denoiser.interface.drawn_shape == (3, 16, 16)
        torch.testing.assert_close(model.sample(noise_of(model, run), Y, run), reference[1], atol=1e-5, rtol=0)


def test_the_artifact_gives_the_images_that_diffusers_decodes(
    latent_run: Path, reference: tuple[torch.Tensor, torch.Tensor]
) -> None:
    with open_path(latent_run, threads=2) as model:
        assert "onnx" in model.runtime
        run = plan_of(model)
        images = model.sample(noise_of(model, run), Y, run)
        latents = model.sample(noise_of(model, run), Y, run, decode=False)
        assert (images - reference[1]).abs().max() < 1e-3 and (latents - reference[0]).abs().max() < 1e-3
        many = torch.cat([model.decoder(latents) for _ in range(1)]) if model.decoder else None
        assert many is not None and (many - images).abs().max() < 1e-5
        assert images.abs().max() <= 1 < latents.abs().max()


def test_the_public_door_and_the_command_line_give_pictures(
    latent_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with dashdeploy.open(latent_run) as model:
        images = model.sample([0, 1, 2], steps=4, seed=3)
        assert images.shape == (3, 16, 16, 3) and images.dtype == np.uint8
    assert command(["sample", str(latent_run), "-o", str(tmp_path / "x.png"), "--columns", "1", "--scale", "1"]) == 0
    assert Image.open(tmp_path / "x.png").size == (16, 3 * 16 + 2)
    assert command(["sample", str(latent_run), "--npz", str(tmp_path / "x.npz"), "--num-images", "6"]) == 0
    assert np.load(tmp_path / "x.npz")["arr_0"].shape == (6, 16, 16, 3)
    capsys.readouterr()


def test_a_decoder_that_gives_nan_is_told(latent_run: Path) -> None:
    with open_path(latent_run / "student") as model:
        run = plan_of(model)
        decoder: Any = model.decoder
        decoder.decode = lambda latents: torch.full((len(latents), 3, 16, 16), torch.nan)
        with pytest.raises(UserError, match="the decoder gave NaN or Inf of finite latents"):
            model.sample(noise_of(model, run), Y, run)


# Exporting


def target(folder: Path, text: str, *, graphs: str = "[guided]", name: str = "made", **more: str) -> Target:
    lines = [f"name: {name}", "description: t", f"graphs: {graphs}", "parity: {batch_sizes: [1, 3], t_bins: 2}", text]
    (folder / f"{name}.yaml").write_text("\n".join(lines + [f"{key}: {value}" for key, value in more.items()]))
    return load_target(str(folder / f"{name}.yaml"))


@pytest.fixture(scope="module")
def run_folder(latent_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy to export into."""
    folder = tmp_path_factory.mktemp("exports") / "latent"
    shutil.copytree(latent_run / "student", folder / "student")
    return folder


def made(folder: Path, asked: Target) -> manifest.Manifest:
    return manifest.read(export(folder, asked))


def test_the_manifest_says_what_the_decoder_is(latent_run: Path) -> None:
    read = manifest.read(stages.read_stage(latent_run / "artifacts" / "onnx"))
    decoder, check = read.artifact.decoder, read.figures.decoder
    assert read.artifact.latents and decoder is not None and check is not None
    assert (decoder.image_shape, decoder.output, decoder.at_once) == ((3, 16, 16), "float32", 8)
    (inputs,), (outputs,) = (getattr(read.artifact.graphs["decoder"], part) for part in ("inputs", "outputs"))
    assert inputs.shape == ("batch", 4, 4, 4) and outputs.shape == ("batch", 3, 16, 16)
    assert 0 < check.relative_error < 1e-5 and check.psnr_to_own is None


@pytest.mark.slow
def test_a_sampler_graph_may_end_in_the_decoder(
    run_folder: Path, tmp_path: Path, reference: tuple[torch.Tensor, torch.Tensor]
) -> None:
    asked = target(
        tmp_path,
        "sampler: {decode: true, output: uint8}",
        graphs="[guided, sampler]",
        vae="{output: uint8, at_once: 2}",
    )
    read = made(run_folder, asked)
    assert read.artifact.graphs["sampler"].outputs[0].shape == ("batch", 3, 16, 16)
    folder = run_folder / "artifacts" / "made"
    half_a_level = 0.51 / 127.5
    with open_path(folder, threads=1) as model:
        run = plan_of(model)
        assert model.graph_for(run) == "sampler" and model.graph_for(run, decode=False) == "guided"
        noise = noise_of(model, run)
        assert (model.sample(noise, Y, run) - reference[1]).abs().max() < half_a_level
        assert (model.sample(noise, Y, run, decode=False) - reference[0]).abs().max() < 1e-3
        others = plan_of(model, num_inference_steps=3)
        assert model.graph_for(others) == "guided"
        by_decoder = model.sample(noise, Y, others)
        assert (by_decoder * 127.5 - (by_decoder * 127.5).round()).abs().max() <= 0.501
    with open_path(folder / "sampler.onnx") as alone:
        assert (alone.sample(noise, Y, run) - reference[1]).abs().max() < half_a_level
        with pytest.raises(UserError, match="ends in the decoder, and latents were asked for"):
            alone.sample(noise, Y, run, decode=False)
    with open_path(folder / "guided.onnx") as alone, pytest.raises(UserError, match="has no decoder"):
        alone.denoiser.interface.check_images()
    with pytest.raises(UserError, match="an artifact's decoder, which draws nothing by itself"):
        open_path(folder / "decoder.onnx")


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "least", "most"), [("fp16", 1e-5, 0.02), ("int8", 1e-3, 0.6)])
def test_lower_precisions_of_the_decoder_have_limits_of_their_own(
    run_folder: Path, tmp_path: Path, precision: str, least: float, most: float
) -> None:
    # Weights that nobody trained give pale images, of which rounding to int8 is a large part.
    limit = f", error: {most}" if precision == "int8" else ""
    asked = target(tmp_path, f"vae: {{precision: {precision}{limit}}}", opset="20")
    check = made(run_folder, asked).figures.decoder
    assert check is not None and check.precision == precision and check.limit == most
    assert least < check.relative_error < most
    strict = target(tmp_path, f"vae: {{precision: {precision}, error: {least / 100}}}", opset="20", name="strict")
    with pytest.raises(UserError, match=rf"the decoder in {precision} is off by .*Set vae\.precision to fp32"):
        export(run_folder, strict)
    assert not (run_folder / "artifacts" / "strict").exists()


def test_another_autoencoder_stands_in_and_its_loss_is_measured(run_folder: Path, tmp_path: Path) -> None:
    Autoencoder(latent.tiny(), source="x").save(tmp_path / "tiny")
    asked = target(tmp_path, "vae: {path: tiny}")
    assert asked.vae is not None and asked.vae.path == str(tmp_path / "tiny")
    read = made(run_folder, asked)
    check = read.figures.decoder
    assert check is not None and check.psnr_to_own is not None and 0 < check.psnr_to_own < 40
    assert read.inputs.vae is not None and read.artifact.decoder is not None
    key = stages.read_stage(run_folder / "artifacts" / "made").manifest["key"]
    changed = latent.tiny()
    with torch.no_grad():
        next(changed.decoder.parameters()).add_(0.1)
    Autoencoder(changed, source="x").save(tmp_path / "tiny")
    assert export(run_folder, asked).manifest["key"] != key


def test_without_vae_the_artifact_gives_latents_and_says_so(run_folder: Path, tmp_path: Path) -> None:
    read = made(run_folder, target(tmp_path, "vae: null"))
    assert read.artifact.latents and read.artifact.decoder is None and "decoder" not in read.artifact.graphs
    with dashdeploy.open(run_folder / "artifacts" / "made") as model:
        assert model.sample([1], steps=2).shape == (1, 4, 4, 4)
        with pytest.raises(UserError, match=r"the model makes latents .* and it has no decoder"):
            model.model.denoiser.interface.check_images()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("vae: {path: none}", r"vae\.path .*none: no such folder"),
        ("vae: {path: other}", "its latents have 8 channels, and these have 4"),
        ("vae: {path: larger}", r"decodes these latents to images \(3, 8, 8\)"),
        ("vae: null\nsampler: {decode: true}", "vae is null: there is no decoder to end in"),
        ("sampler: {output: uint8}", r"or sampler\.decode to true"),
    ],
)
def test_targets_that_cannot_decode_are_refused(run_folder: Path, tmp_path: Path, text: str, message: str) -> None:
    torch.manual_seed(0)
    Autoencoder(latent.kl(latent_channels=8), source="x").save(tmp_path / "other")
    smaller = AutoencoderKL(latent_channels=4, block_out_channels=(8, 8), norm_num_groups=4).config
    plain = {k: v for k, v in smaller.items() if not k.startswith("_")} | {
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
    }
    Autoencoder(AutoencoderKL(**plain), source="x").save(tmp_path / "larger")
    with pytest.raises(UserError, match=message):
        export(run_folder, target(tmp_path, text, graphs="[guided, sampler]"))
    assert not (run_folder / "artifacts" / "refused").exists()


# Measuring


def test_the_benchmark_scores_decoded_images(
    latent_run: Path, recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "latent"
    shutil.copytree(latent_run, folder)
    record = load_record(bench(folder, recipe).folder)
    rows = {(row.model, row.guidance): row for row in record.quality.rows}
    artifact = rows["student-onnx", "w=2"]
    assert (TEACHER, "w=2") in rows and (STUDENT, "w=2") in rows
    assert 0 < artifact.fid.value < np.inf and artifact.pixel_distance is not None
    assert record.quality.num_reference == 27  # of 30 pictures three are held out
    decoding = {row.model: row for row in record.decoding}
    assert decoding.keys() == record.models.keys() and all(row.p50_ms > 0 for row in record.decoding)
    (checks,) = record.checks
    assert checks.decoder is not None and checks.decoder.relative_error < 1e-5
    page = (folder / "bench" / "report.html").read_text()
    assert "Decoder&#39;s share" in page or "Decoder's share" in page
    assert "Decoders against torch fp32" in page
    with np.load(folder / "bench" / "samples.npz") as grids:
        assert grids[STUDENT].shape[1:] == (3, 16, 16)
    capsys.readouterr()


def test_a_pipeline_without_vae_or_of_text_is_told_in_one_line(
    latent_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(latent_folder / "pipeline", tmp_path / "pipeline")
    shutil.rmtree(tmp_path / "pipeline" / "vae")
    text = latent.RECIPE.format(folder=latent_folder).replace(f"{latent_folder}/pipeline", f"{tmp_path}/pipeline")
    (tmp_path / "r.yaml").write_text(text)
    assert command(["run", str(tmp_path / "r.yaml"), "--dry-run", "--run-dir", str(tmp_path / "runs")]) == 2
    told = capsys.readouterr().err
    assert "images are (4, 4, 4)" in told and "data.vae" in told and "Traceback" not in told
    index = tmp_path / "pipeline" / "model_index.json"
    index.write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    config = tmp_path / "pipeline" / "transformer"
    config.rename(tmp_path / "pipeline" / "unet")
    path = tmp_path / "pipeline" / "unet" / "config.json"
    path.write_text(json.dumps({"_class_name": "UNet2DConditionModel"}))
    assert command(["distill", str(tmp_path / "r.yaml"), "--run-dir", str(tmp_path / "runs")]) == 2
    told = capsys.readouterr().err
    assert "UNet2DConditionModel" in told and "class-conditional" in told and "Traceback" not in told
