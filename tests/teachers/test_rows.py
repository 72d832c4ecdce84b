"""A teacher whose rows are in another order computes, by its rows, what it computed by its own labels."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import UNet2DModel
from pydantic import ValidationError

from dashdeploy.diffusion import schedule
from dashdeploy.diffusion.denoiser import TorchDenoiser
from dashdeploy.errors import UserError
from dashdeploy.recipe.architecture import Architecture, DiT
from dashdeploy.recipe.schema import NoiseSchedule, Teacher
from dashdeploy.teachers import dit, formats, networks, rows, unet2d

K = 4
SCHEDULE = schedule.from_recipe(NoiseSchedule())


@pytest.fixture(params=["unet", "dit"])
def saved(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == "unet":
        small = Architecture(block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4)
        network = unet2d.build(small, image_shape=(1, 8, 8), num_classes=K, seed=0)
    else:
        torch.manual_seed(0)
        config = dit.dit_config(
            DiT(num_layers=2, num_attention_heads=2, attention_head_dim=8), image_shape=(1, 8, 8), num_classes=K
        )
        network = networks.create(config, network=networks.DIT)
    networks.save(network, SCHEDULE, tmp_path / "model")
    return tmp_path / "model"


def predicted(teacher: TorchDenoiser, labels: list[int]) -> torch.Tensor:
    x = torch.randn(len(labels), 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return teacher(x, torch.linspace(0, 999, len(labels)).long(), torch.tensor(labels))


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({}, [0, 1, 2, 3, 4]),
        ({"null_class": 0}, [1, 2, 3, 4, 0]),
        ({"labels": [3, 1, 0, 2]}, [3, 1, 0, 2, 4]),
        ({"labels": [2, 0], "null_class": 3}, [2, 0, 3]),
    ],
)
def test_label_y_computes_what_its_row_did_and_k_what_the_null_row_did(saved: Path, section, expected) -> None:
    native = formats.load(saved, role="teacher")
    chosen = rows.chosen(Teacher(path="x", **section), K + 1)
    assert list(chosen) == expected
    taken = rows.take(formats.load(saved, role="teacher"), chosen)
    assert taken.interface.num_classes == taken.interface.null_class == len(expected) - 1
    assert torch.equal(predicted(taken, list(range(len(expected)))), predicted(native, expected))
    assert rows.number(dict(taken.unet.config)) == len(expected)


def test_what_was_taken_is_saved_and_opened_by_diffusers(saved: Path, tmp_path: Path) -> None:
    taken = rows.take(formats.load(saved, role="teacher"), (2, 0, 3))
    networks.save(taken.unet, SCHEDULE, tmp_path / "taken")
    again = formats.load(tmp_path / "taken", role="teacher")
    assert torch.equal(predicted(again, [0, 1, 2]), predicted(taken, [0, 1, 2]))
    if (tmp_path / "taken" / "unet").is_dir():
        assert UNet2DModel.from_pretrained(tmp_path / "taken", subfolder="unet").config.num_class_embeds == 3


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"null_class": 5}, r"teacher.null_class: .* has no row 5; its rows are 0..4"),
        ({"labels": [0, 7]}, r"teacher.labels: .* has no row 7"),
        ({"labels": [0, 4]}, "row 4 is the null class's"),
    ],
)
def test_rows_that_are_not_there_are_refused(section: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        rows.chosen(Teacher(path="x", **section), K + 1)


@pytest.mark.parametrize("section", [{"path": "x", "null_class": 0, "labels": [0, 1]}, {"null_class": 0}])
def test_keys_that_contradict_each_other_are_a_problem_of_the_recipe(section: dict) -> None:
    with pytest.raises(ValidationError, match="null_class"):
        Teacher(**section)
