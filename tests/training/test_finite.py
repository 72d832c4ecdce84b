"""What diverges is never written: the step is named, and the last good checkpoint stays."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dashdeploy.errors import UserError
from dashdeploy.stages import open_run
from dashdeploy.teachers import formats, networks
from dashdeploy.training import checkpoint, distill
from dashdeploy.training.state import State


def spoil(path: Path, name: str, value: float) -> None:
    """Put a value into the last element of one tensor of a safetensors file."""
    tensors = load_file(path)
    tensors[name].view(-1)[-1] = value
    save_file(tensors, path, {"format": "pt"})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("role", ["teacher", "student"])
def test_weights_that_are_not_numbers_are_refused_when_they_are_read(
    tiny_run: Path, tmp_path: Path, role: str, value: float
) -> None:
    shutil.copytree(tiny_run / role / "unet", tmp_path / "m" / "unet")
    shutil.copytree(tiny_run / role / "scheduler", tmp_path / "m" / "scheduler")
    spoil(tmp_path / "m" / "unet" / networks.WEIGHTS, "conv_norm_out.weight", value)
    with pytest.raises(UserError, match=rf"{networks.WEIGHTS}: conv_norm_out\.weight holds NaN or Inf"):
        formats.load(tmp_path / "m", role=role)


def test_weights_that_do_not_fit_into_half_precision_are_not_written(tiny_run: Path, tmp_path: Path) -> None:
    denoiser = formats.load(tiny_run / "teacher", role="teacher")
    with torch.no_grad():
        denoiser.unet.conv_in.bias[0] = 70_000
    schedule = denoiser.interface.schedule
    with pytest.raises(UserError, match=r"conv_in\.bias holds NaN or Inf.*do not fit into float16"):
        networks.save(denoiser.unet, schedule, tmp_path / "half", dtype=torch.float16)
    assert not (tmp_path / "half").exists()
    networks.save(denoiser.unet, schedule, tmp_path / "whole")


@pytest.mark.parametrize(
    ("steps", "rate", "message"),
    [
        (1, 3e38, "step 1: (a weight|what the averaged network predicts) is not finite"),
        (1, 1e30, "step 1: what the averaged network predicts is not finite"),  # its weights are numbers
        (3, 1e30, r"step 2: the loss is not finite \(loss.*\)"),
    ],
)
def test_a_student_that_diverged_is_not_written(
    recipe_with, tmp_path: Path, steps: int, rate: float, message: str
) -> None:
    recipe = recipe_with("distill.warmup_steps=0", "distill.lr_schedule=constant", "distill.ema_decay=0.0")
    config = recipe.distill.model_copy(update={"steps": steps, "learning_rate": rate})
    with pytest.raises(UserError, match=message + ".*Lower the learning rate"):
        distill.distill(recipe.model_copy(update={"distill": config}), open_run(tmp_path, "t"))
    assert not (tmp_path / "t" / "student").exists()


@pytest.mark.parametrize("part", ["average", "module"])
def test_a_checkpoint_with_weights_that_are_not_numbers_is_not_resumed(
    recipe_with, tmp_path: Path, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, folder = recipe_with("distill.checkpoint_every=4"), open_run(tmp_path, "t")
    whole = State.save

    def spoilt(self: State, folder: Path, *, step: int, key: str) -> None:
        """As if the file had been damaged after it was written; then the run is killed."""
        with torch.no_grad():
            parameters = self.average.shadow_params if part == "average" else list(self.module.parameters())
            parameters[0].view(-1)[0] = torch.nan
        whole(self, folder, step=step, key=key)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(State, "save", spoilt)
        distill.distill(recipe, folder)
    assert list(folder.rglob(checkpoint.FILE))
    with pytest.raises(UserError, match="step 4: a weight is not finite"):
        distill.distill(recipe, folder)
    assert not (folder / "student").exists()


def test_a_run_that_would_keep_bad_weights_leaves_the_checkpoint_before_them(
    recipe_with, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, folder = recipe_with("distill.checkpoint_every=4"), open_run(tmp_path, "t")
    whole = State.require_finite

    def spoilt(self: State, *, step: int, folder: Path) -> None:
        if step == 8:
            with torch.no_grad():
                self.average.shadow_params[0].view(-1)[0] = torch.inf
        whole(self, step=step, folder=folder)

    with (
        monkeypatch.context() as patch,
        pytest.raises(UserError, match=r"step 8: a weight.*last good checkpoint is kept"),
    ):
        patch.setattr(State, "require_finite", spoilt)
        distill.distill(recipe, folder)
    (kept,) = folder.rglob(checkpoint.FILE)
    assert torch.load(kept, weights_only=True)["step"] == 4
    assert distill.distill(recipe, folder).figures["step"] == 12


def test_a_published_checkpoint_with_bad_weights_is_not_adopted(tmp_path: Path) -> None:
    from dashdeploy.teachers import published

    state = {"conv_in.weight": torch.tensor([1.0, float("nan")])}
    torch.save({"model_state_dict": state}, tmp_path / "c.pth")
    with pytest.raises(UserError, match=r"c\.pth: conv_in\.weight holds NaN or Inf"):
        published.read(tmp_path / "c.pth", image_size=8, weights="model")
