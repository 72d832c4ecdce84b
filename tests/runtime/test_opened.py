"""`dashdeploy.open`: images of labels in one call, by the model's own recipe."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import dashdeploy
from dashdeploy.cli.app import main
from dashdeploy.errors import UserError
from dashdeploy.export.export import export
from dashdeploy.locate import data_root
from dashdeploy.recipe.schema import Sampling, Tag
from dashdeploy.report.grid import grid_png
from dashdeploy.stages import MANIFEST, SIDECAR, sidecar_text
from dashdeploy.target import ParityLimits, Target
from dashdeploy.teachers import networks, unet2d

OWN = Sampling(
    num_inference_steps=3, guidance=Tag(w_max=3), solver="dpmpp_2m", timestep_spacing="leading", clip_sample=False
)


@pytest.fixture(scope="module")
def run(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose artifact was exported with a sampling of its own."""
    folder = tmp_path_factory.mktemp("opened") / "tiny"
    shutil.copytree(tiny_run, folder)
    shutil.rmtree(folder / "artifacts")
    quick = ParityLimits(batch_sizes=(1, 3), t_bins=2)
    export(folder, Target(name="own", description="test", graphs=("guided", "cond"), parity=quick), sampling=OWN)
    return folder


def command(*arguments: object) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    assert not stopped.value.code


def test_it_draws_the_images_of_the_command_line_for_the_same_seed(run: Path, tmp_path: Path) -> None:
    for options, asked in (
        ((), {}),
        (("-w", "tag", "--steps", "2", "--solver", "ddim"), {"guidance": "tag", "steps": 2, "solver": "ddim"}),
    ):
        command("sample", run, "--labels", "3,0-1", "--columns", 2, "--seed", 7, *options, "-o", tmp_path / "grid.png")
        with dashdeploy.open(run) as model:
            images = model.sample([3, 3, 0, 0, 1, 1], seed=7, batch_size=4, **asked)
        assert images.shape == (6, 8, 8, 1) and images.dtype == np.uint8
        drawn = grid_png(images.transpose(0, 3, 1, 2), columns=2, scale=4)
        assert (tmp_path / "grid.png").read_bytes() == drawn


def test_what_is_not_said_is_the_recipes_that_made_the_model(run: Path) -> None:
    with dashdeploy.open(run) as model:
        assert model.sampling == OWN
        same = model.sample(range(10), guidance=OWN.guidance, steps=3, solver="dpmpp_2m", seed=1)
        np.testing.assert_array_equal(model.sample(range(10), seed=1), same)
        assert not np.array_equal(model.sample(range(10), seed=1, steps=4), same)
        assert model.classes == tuple("0123456789")
    for part in ("student", "teacher"):
        with dashdeploy.open(run / part) as model:
            assert model.sampling == Sampling(num_inference_steps=4)


def test_labels_may_be_a_number_a_list_a_range_or_an_array(run: Path) -> None:
    with dashdeploy.open(run) as model:
        expected = model.sample([2, 3, 4])
        for labels in (range(2, 5), np.array([2, 3, 4], np.uint8), torch.tensor([2, 3, 4]), (n for n in (2, 3, 4))):
            np.testing.assert_array_equal(model.sample(labels), expected)
        np.testing.assert_array_equal(model.sample(2), expected[:1])
        np.testing.assert_array_equal(model.sample(np.int64(2), batch_size=1), expected[:1])


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        ([0, 10], {}, r"class index 10 is out of range: this model has classes 0\.\.9"),
        (-1, {}, "class index -1 is out of range"),
        (np.array([2**63], np.uint64), {}, "class index 9223372036854775808 is out of range"),
        ([0.5], {}, r"labels must be class indices, whole numbers \(N,\); got float64"),
        ([True], {}, "got bool"),
        (["3"], {}, "whole numbers"),
        ([[1, 2]], {}, r"got int64 of shape \(1, 2\)"),
        ([[1, 2], [3]], {}, "labels must be class indices"),
        (None, {}, "got object"),
        ([2**70], {}, "got object"),
        ([], {}, "labels must be class indices"),
        (0, {"guidance": -1}, "guidance must be a number from 0 to 1,000,000"),
        (0, {"guidance": float("nan")}, "guidance must be a number from 0 to 1,000,000"),
        (0, {"guidance": 1e300}, "guidance must be a number from 0 to 1,000,000"),
        (0, {"guidance": "much"}, "guidance must be a number from 0 to 1,000,000"),
        (0, {"steps": 0}, "num_inference_steps: must be"),
        (0, {"steps": 2.5}, "num_inference_steps: must be"),
        (0, {"steps": 1001}, "exceeds the 1000 timesteps"),
        (0, {"solver": "euler"}, "solver: must be"),
        (0, {"seed": -1}, "0 ≤ seed < 2"),
        (0, {"batch_size": 0}, "batch_size ≥ 1"),
        (0, {"batch_size": 1.5}, "batch_size must be a whole number, got 1.5"),
        (0, {"seed": 1.5}, "seed must be a whole number, got 1.5"),
        (0, {"seed": None}, "seed must be a whole number, got None"),
        (0, {"seed": True}, "seed must be a whole number, got True"),
        (0, {"guidance": {"kind": "x"}}, r"guidance\.kind: unknown 'x' \(known: tag, interval\)"),
    ],
)
def test_what_makes_no_sense_is_one_line(run: Path, labels, options: dict, message: str) -> None:
    with dashdeploy.open(run, threads=1) as model, pytest.raises(UserError, match=message) as caught:
        model.sample(labels, **options)
    assert "\n" not in str(caught.value)


def test_the_model_inside_refuses_the_null_class_and_noise_of_another_kind(run: Path) -> None:
    from dashdeploy.diffusion.sampling import plan

    steps = plan(OWN, 1000)
    noise = torch.zeros(1, 1, 8, 8)
    for part in ("artifacts/own", "student"):
        with dashdeploy.open(run / part) as opened:
            for label in (-1, 10):
                with pytest.raises(UserError, match=rf"^student \(.*\): class index {label} is out of range"):
                    opened.model.sample(noise, torch.tensor([label]), steps)
            with pytest.raises(UserError, match="noise must be float32, not float64"):
                opened.model.sample(noise.double(), torch.tensor([0]), steps)


@pytest.fixture
def of_latents(tmp_path: Path, run: Path) -> dict[str, Path]:
    """Models of latents: by their channels, and by their recipe, whose 1 channel could be an image's."""
    config = {
        **networks.arguments(json.loads((run / "student" / "unet" / "config.json").read_text())),
        "in_channels": 4,
        "out_channels": 4,
    }
    networks.save(
        networks.create(config), networks.schedules.from_scheduler_config({}, source="x"), tmp_path / "foreign"
    )
    for part in ("student", "artifacts/own"):
        folder = tmp_path / part
        shutil.copytree(run / part, folder)
        manifest = json.loads((folder / MANIFEST).read_text())
        manifest["recipe"]["data"] = {"name": "latents", "path": "latents.npz"}
        (folder / MANIFEST).write_text(json.dumps(manifest))
        (folder / SIDECAR).write_bytes(sidecar_text(folder / MANIFEST))
    return {name: tmp_path / name for name in ("foreign", "student", "artifacts/own")}


def test_latents_come_as_they_are_and_never_as_images(
    of_latents: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, folder in of_latents.items():
        with dashdeploy.open(folder) as model:
            drawn = model.sample([0, 1], steps=2, guidance=3.0)
        assert drawn.dtype == np.float32 and drawn.shape == (2, 4 if name == "foreign" else 1, 8, 8)
        with pytest.raises(SystemExit) as stopped:
            main(["sample", str(folder), "--steps", "2", "-o", str(tmp_path / "x.png")])
        assert stopped.value.code == 2
        assert "makes latents" in capsys.readouterr().err
        assert not (tmp_path / "x.png").exists()
    with dashdeploy.open(of_latents["foreign"]) as model:
        assert not model.sampling.clip_sample
        assert np.abs(model.sample([0, 1], steps=1)).max() > 1.5  # far from an image's range, and kept


def test_the_teacher_that_ships_opens_whatever_version_its_recipe_is_of() -> None:
    with dashdeploy.open(data_root("recipes") / "teachers" / "digits") as model:
        assert model.sample([0, 9], steps=1).shape == (2, 8, 8, 1)


def test_a_teachers_settings_that_are_not_followed_are_told_when_it_is_opened(run: Path, tmp_path: Path) -> None:
    for part in ("unet", "scheduler"):
        shutil.copytree(run / "teacher" / part, tmp_path / part)
    path = tmp_path / "scheduler" / "scheduler_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "set_alpha_to_one": False, "steps_offset": 1}))
    with pytest.warns(UserWarning) as told, dashdeploy.open(tmp_path) as model:
        assert model.sample(1, steps=1).shape == (1, 8, 8, 1)
    said = " ".join(str(warning.message) for warning in told)
    assert f"teacher {path}: set_alpha_to_one is false" in said and "steps_offset 1 is not added here" in said
    path.write_text(json.dumps({**config, "clip_sample_range": 2.0}))
    with pytest.raises(UserError, match=r"scheduler_config\.json: clip_sample_range is 2\.0"):
        dashdeploy.open(tmp_path)


def test_a_student_without_a_recipe_still_says_its_classes_by_number(tmp_path: Path) -> None:
    from dashdeploy.recipe.architecture import Architecture

    small = Architecture(block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4)
    unet = unet2d.build(small, image_shape=(3, 8, 8), num_classes=2, seed=0)
    networks.save(unet, networks.schedules.from_scheduler_config({}, source="x"), tmp_path / "rgb")
    with dashdeploy.open(tmp_path / "rgb") as model:
        assert model.classes == ("0", "1")
        assert model.sample(1, steps=1).shape == (1, 8, 8, 3)
