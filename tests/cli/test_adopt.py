"""`dashdeploy adopt` from the command line: the folder on stdout, what it holds on stderr, a mistake in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dashdeploy.cli.app import main
from dashdeploy.recipe.load import load_text
from dashdeploy.stages import open_run
from dashdeploy.training import distill
from tests.teachers.paper_unet import PaperUNet, checkpoint

RECIPE = """
name: adopted
data: {name: image_folder}
student: {compression: 2.0}
distill: {steps: 2, batch_size: 4, warmup_steps: 1, threads: 1, timestep_weights: {kind: published}}
"""


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Two classes of four 8-pixel images."""
    from PIL import Image

    for c in range(2):
        (tmp_path / "data" / str(c)).mkdir(parents=True)
        for i in range(4):
            Image.new("RGB", (8, 8), (60 * i, 90, 200 * c)).save(tmp_path / "data" / str(c) / f"{i}.png")
    return tmp_path / "data"


def test_an_adopted_checkpoint_is_distilled_with_its_lambda(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    network = PaperUNet(channels=(32, 64), blocks=1, attention_levels=(1,), classes=2)
    torch.save(checkpoint(network, lam=torch.zeros(1000)), tmp_path / "ckpt_epoch_0001.pth")
    with pytest.raises(SystemExit) as caught:
        main(["adopt", str(tmp_path / "ckpt_epoch_0001.pth"), str(tmp_path / "teacher"), "--image-size", "8"])
    assert not caught.value.code
    printed = capsys.readouterr()
    assert printed.out == f"{tmp_path / 'teacher'}\n"
    assert "2 classes, with λ" in printed.err
    recipe = load_text(
        RECIPE,
        name="adopted",
        overrides=[f"teacher={{path: {tmp_path / 'teacher'}, check: false}}", f"data.path={images}"],
    )
    stage = distill.distill(recipe, open_run(tmp_path, "adopted"))
    assert (stage.folder / "timestep_weights.safetensors").is_file()
    assert stage.figures["compression"] >= 2


def test_a_missing_checkpoint_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["adopt", str(tmp_path / "none.pth"), str(tmp_path / "teacher")])
    assert caught.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_recipe_that_names_the_checkpoint_itself_is_told_the_command(tmp_path: Path, images: Path) -> None:
    from dashdeploy.errors import UserError

    recipe = load_text(RECIPE, name="x", overrides=["teacher.path=ckpt_epoch_0001.pth", f"data.path={images}"])
    with pytest.raises(UserError, match="dashdeploy adopt CHECKPOINT FOLDER"):
        distill.distill(recipe, open_run(tmp_path, "adopted"))
