from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
from accelerate.utils import LoggerType
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dashdeploy.errors import UserError
from dashdeploy.recipe.load import load_text
from dashdeploy.recipe.schema import Tracker, Training
from dashdeploy.stages import open_run
from dashdeploy.training import distill, loop
from dashdeploy.training.accelerator import make_accelerator, refuse
from dashdeploy.training.progress import read_metrics


def test_two_stages_of_one_process_may_have_different_precisions(tmp_path: Path) -> None:
    made = [make_accelerator(Training(precision=p), work=tmp_path).mixed_precision for p in ("bf16", "fp32")]
    assert made == ["bf16", "no"]


def test_a_batch_that_does_not_divide_among_the_processes_is_refused() -> None:
    with pytest.raises(UserError, match="does not divide among 3 processes"):
        refuse(Training(batch_size=16), processes=3)


def test_the_schema_names_every_tracker_of_accelerate() -> None:
    assert set(get_args(Tracker)) == {str(kind) for kind in LoggerType} - {"all"}


def test_a_tracker_that_is_not_installed_is_named_with_the_command_that_installs_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tracker: comet_ml is not installed here.*pip install comet-ml"):
        make_accelerator(Training(tracker="comet_ml"), work=tmp_path)


@pytest.fixture
def recipe(tiny_text: str, tiny_run: Path):
    """The tiny recipe with the ready teacher, and TensorBoard."""
    return load_text(
        tiny_text,
        name="t",
        overrides=[f"teacher.path={tiny_run}/teacher", "distill.tracker=tensorboard", "distill.checkpoint_every=4"],
    )


def events(student: Path) -> EventAccumulator:
    """What TensorBoard shows of a stage."""
    return EventAccumulator(str(student / "tracker" / "tiny")).Reload()


def test_tensorboard_holds_the_values_of_metrics_jsonl(recipe, tmp_path: Path) -> None:
    stage = distill.distill(recipe, open_run(tmp_path, "t"))
    records, shown = read_metrics(stage.folder / "metrics.jsonl"), events(stage.folder)
    names = records[0].keys() - {"step", "terms"}
    assert set(shown.Tags()["scalars"]) == names >= {"loss", "imitation", "learning_rate", "images_per_s"}
    for name in names:
        scalars = shown.Scalars(name)
        assert [point.step for point in scalars] == [record["step"] for record in records] == list(range(1, 13))
        assert [point.value for point in scalars] == pytest.approx([record[name] for record in records])
    (settings,) = stage.folder.glob("tracker/tiny/*/hparams.yml")
    assert "distill.timestep_weights.kind: tirt" in settings.read_text()


def test_a_resumed_run_shows_each_step_once(recipe, tmp_path: Path, monkeypatch) -> None:
    folder, steps = open_run(tmp_path, "t"), iter(range(6))
    with monkeypatch.context() as patch, pytest.raises(StopIteration):
        # The run ends after step 7; its last checkpoint is step 4's.
        patch.setattr(loop, "any_process", lambda *_: next(steps) < 0)
        distill.distill(recipe, folder)
    student = distill.distill(recipe, folder).folder
    assert [point.step for point in events(student).Scalars("loss")] == list(range(1, 13))
