"""A training in phases: what each begins with and is taught by, and that a stop in or between them changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dashdeploy.errors import UserError
from dashdeploy.recipe.load import load_text
from dashdeploy.recipe.schema import Recipe
from dashdeploy.stages import Stage, open_run
from dashdeploy.teachers import networks
from dashdeploy.training import distill, loop, phases
from dashdeploy.training.progress import Phase, read_metrics
from tests.made import PROGRESSIVE, save_teacher, taught_by

WEIGHTS = f"unet/{networks.ONE_BRANCH_WEIGHTS}"


@pytest.fixture(scope="module")
def recipe(tiny_text: str, tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """Three phases of two steps, with banks and dropout."""
    folder = save_teacher(tmp_path_factory.mktemp("taught") / "teacher", "v_prediction", zero_snr=True)
    network = "{block_out_channels: [8, 8], layers_per_block: 1, norm_num_groups: 4, dropout: 0.2}"
    more = (f"student.architecture={network}", "student.compression=null", "distill.teacher_bank=40")
    steps = ("distill.steps=6", "distill.checkpoint_every=1", "distill.log_every=5")
    return load_text(tiny_text, name="t", overrides=[*taught_by(folder), *PROGRESSIVE, *more, *steps])


@pytest.fixture(scope="module")
def whole(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Stage:
    """Its student, of a run that nobody stopped."""
    return distill.distill(recipe, open_run(tmp_path_factory.mktemp("whole"), "t"))


def same(one: Stage, two: Stage) -> bool:
    ours, theirs = (read_metrics(stage.folder / "metrics.jsonl") for stage in (one, two))
    assert [(r["step"], r["phase"], r["loss"]) for r in ours] == [(r["step"], r["phase"], r["loss"]) for r in theirs]
    return bool(one.manifest["files"][WEIGHTS] == two.manifest["files"][WEIGHTS])


def test_the_steps_are_shared_equally(recipe: Recipe) -> None:
    assert phases.phases_of(recipe.distill) == [Phase(0, 2, 1), Phase(2, 4, 2), Phase(4, 6, 3)]


def test_the_metrics_are_those_of_one_training_with_the_phase_named(whole: Stage) -> None:
    records = read_metrics(whole.folder / "metrics.jsonl")
    assert [(r["step"], r["phase"]) for r in records] == [(2, 1), (4, 2), (5, 3), (6, 3)]
    rates = [r["learning_rate"] for r in records]
    assert rates[0] == rates[1] == rates[3] and rates[2] == pytest.approx(2e-4)  # each phase has its own schedule
    assert "phase" not in whole.figures


def test_the_averaged_student_of_a_phase_teaches_the_next_which_begins_with_its_weights(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began: list[dict[str, torch.Tensor]] = []
    ended: list[dict[str, torch.Tensor]] = []
    taught: list[dict[str, torch.Tensor]] = []
    train, live_source = phases.train, phases.live_source

    def weights(network: Any) -> dict[str, torch.Tensor]:
        return {name: value.clone() for name, value in network.state_dict().items()}

    def before_the_first_step(module: Any) -> None:
        assert module.denoiser.unet.training and all(p.requires_grad for p in module.denoiser.unet.parameters())
        began.append(weights(module.denoiser.unet))

    def seen_train(module: Any, source: Any, *args: Any, **named: Any) -> Any:
        result = train(module, source, *args, **named)
        ended.append(weights(module.denoiser.unet))
        return result

    def seen_source(recipe: Any, data: Any, teacher: Any, *, phase: int) -> Any:
        assert not teacher.unet.training and teacher.interface.branches == (2 if phase == 1 else 1)
        taught.append(weights(teacher.unet))
        return live_source(recipe, data, teacher, phase=phase)

    monkeypatch.setattr(loop, "say_weight_by_decile", before_the_first_step)
    monkeypatch.setattr(phases, "train", seen_train)
    monkeypatch.setattr(phases, "live_source", seen_source)
    distill.distill(recipe, open_run(tmp_path, "t"))
    for phase in (1, 2):
        for name, value in ended[phase - 1].items():
            assert torch.equal(value, began[phase][name]) and torch.equal(value, taught[phase][name]), name
        assert any(not torch.equal(value, ended[phase][name]) for name, value in began[phase].items())


def test_a_run_stopped_after_every_step_is_bit_identical(
    recipe: Recipe, whole: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, stops = open_run(tmp_path, "t"), 0
    while True:
        # A step is saved, and the run ends before the next one is: two steps later, where a phase ends between them.
        calls = iter((False, None))
        monkeypatch.setattr(loop, "any_process", lambda *_, calls=calls: stopped(next(calls)))
        try:
            done = distill.distill(recipe, folder)
        except Stopped:
            stops += 1
            continue
        break
    assert stops == 5 and same(done, whole)


def test_a_run_stopped_before_a_finished_phase_is_kept_is_bit_identical(
    recipe: Recipe, whole: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = open_run(tmp_path, "t")
    for _ in range(2):
        with monkeypatch.context() as patch, pytest.raises(Stopped):
            patch.setattr(phases, "_keep", lambda *_, **__: stopped(None))
            distill.distill(recipe, folder)
    assert not list((folder / ".work" / "student").glob("phase-*/checkpoint.pt"))
    assert same(distill.distill(recipe, folder), whole)


def test_a_damaged_phase_is_refused(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, calls = open_run(tmp_path, "t"), iter((False, False, None))
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(loop, "any_process", lambda *_: stopped(next(calls)))
        distill.distill(recipe, folder)
    kept = folder / ".work" / "student" / "phase-1" / "checkpoint.pt"
    kept.write_bytes(kept.read_bytes()[:-7])
    with pytest.raises(UserError, match=r"phase-1/checkpoint\.pt: damaged .* Pass --fresh"):
        distill.distill(recipe, folder)


class Stopped(Exception):
    """The run ends here, as by a kill."""


def stopped(answer: bool | None) -> bool:
    """The answer of `any_process`; None: the end."""
    if answer is None:
        raise Stopped
    return answer
