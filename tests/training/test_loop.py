"""The training loop through the real command line: exact resume, several processes, failures."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from dashdeploy.teachers.networks import weights_files
from dashdeploy.training import checkpoint
from dashdeploy.training.progress import read_metrics
from tests.made import CONSISTENCY, GUIDED, PROGRESSIVE, SEGMENTS
from tests.training.two import launch

pytestmark = pytest.mark.slow

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
SLOW_STEPS = ("--set", "distill.steps=60", "--set", "distill.checkpoint_every=1", "--set", "distill.log_every=1")


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "dashdeploy", *map(str, arguments)]


def run(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), env=ENVIRONMENT, capture_output=True, text=True, check=False, cwd=cwd, timeout=240
    )


def kill_at(step: int, work: Path, *arguments: str | Path, number: int = signal.SIGKILL) -> str:
    """Start the command, send it a signal once `step` steps are logged, and wait for its end; its stderr."""
    process = subprocess.Popen(command(*arguments), env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 120
        path = work / "metrics.jsonl"
        while not (path.is_file() and len(path.read_text().splitlines()) >= step):
            assert process.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(number)
        return process.communicate(timeout=60)[1]
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory, tiny_text: str) -> tuple[Path, Path]:
    """(recipe with dropout in the student and a ready teacher, folder): a kill must not change dropout's draws."""
    folder = tmp_path_factory.mktemp("taught")
    recipe = folder / "tiny.yaml"
    dropout = (
        "student:\n  architecture: {block_out_channels: [8, 8], layers_per_block: 1, norm_num_groups: 4, dropout: 0.2}"
    )
    recipe.write_text(tiny_text.replace("student:\n  compression: 2.0", dropout))
    done = run("teach", recipe, "--run-dir", folder / "runs")
    assert done.returncode == 0, done.stderr
    recipe.write_text(
        recipe.read_text().replace("seed: 3", f"seed: 3\nteacher: {{path: {folder / 'runs/tiny/teacher'}}}")
    )
    return recipe, folder


def student_bytes(runs: Path) -> bytes:
    return weights_files(runs / "tiny" / "student")[0].read_bytes()


@pytest.fixture(scope="module")
def uninterrupted(taught: tuple[Path, Path]) -> Path:
    recipe, folder = taught
    done = run("distill", recipe, "--run-dir", folder / "whole", *SLOW_STEPS)
    assert done.returncode == 0, done.stderr
    return folder / "whole"


@pytest.mark.parametrize("steps", [(3,), (11, 37)])
def test_a_run_killed_at_any_step_and_resumed_ends_bit_for_bit_the_same(
    taught: tuple[Path, Path], uninterrupted: Path, tmp_path: Path, steps: tuple[int, ...]
) -> None:
    recipe, _ = taught
    arguments = ("distill", recipe, "--run-dir", tmp_path, *SLOW_STEPS)
    for step in steps:
        kill_at(step, tmp_path / "tiny" / ".work" / "student", *arguments)
    assert not (tmp_path / "tiny" / "student").exists(), "it had ended before it was killed"
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    assert "resuming at step" in done.stderr
    assert student_bytes(tmp_path) == student_bytes(uninterrupted)
    ours, theirs = (read_metrics(root / "tiny" / "student" / "metrics.jsonl") for root in (tmp_path, uninterrupted))
    assert [r["step"] for r in ours] == [r["step"] for r in theirs] == list(range(1, 61))
    assert [r["loss"] for r in ours] == [r["loss"] for r in theirs]
    assert not (tmp_path / "tiny" / ".work" / "student").exists()


def test_ctrl_c_saves_and_says_how_to_resume(taught: tuple[Path, Path], uninterrupted: Path, tmp_path: Path) -> None:
    recipe, _ = taught
    arguments = ("distill", recipe, "--run-dir", tmp_path, *SLOW_STEPS, "--set", "distill.checkpoint_every=1000")
    said = kill_at(9, tmp_path / "tiny" / ".work" / "student", *arguments, number=signal.SIGINT)
    assert "is saved. Run the same command to resume." in said
    assert "Traceback" not in said
    assert run(*arguments).returncode == 0
    assert student_bytes(tmp_path) == student_bytes(uninterrupted)


def test_the_teacher_bank_too_resumes_exactly(taught: tuple[Path, Path], tmp_path: Path) -> None:
    recipe, _ = taught
    bank = (*SLOW_STEPS, "--set", "distill.teacher_bank=64")
    assert run("distill", recipe, "--run-dir", tmp_path / "a", *bank).returncode == 0
    kill_at(20, tmp_path / "b" / "tiny" / ".work" / "student", "distill", recipe, "--run-dir", tmp_path / "b", *bank)
    (bank_file,) = (tmp_path / "b" / "tiny" / ".work" / "student").glob("teacher-bank-*.safetensors")
    bank_file.unlink()
    assert run("distill", recipe, "--run-dir", tmp_path / "b", *bank).returncode == 0
    assert student_bytes(tmp_path / "a") == student_bytes(tmp_path / "b")


def test_a_student_that_starts_from_its_teacher_resumes_exactly(taught: tuple[Path, Path], tmp_path: Path) -> None:
    recipe, _ = taught
    student = "{compression: 2, init: {kind: pruned, importance: taylor, samples: 32}}"
    pruned = (*SLOW_STEPS, "--set", f"student={student}")
    assert run("distill", recipe, "--run-dir", tmp_path / "a", *pruned).returncode == 0
    kill_at(20, tmp_path / "b" / "tiny" / ".work" / "student", "distill", recipe, "--run-dir", tmp_path / "b", *pruned)
    done = run("distill", recipe, "--run-dir", tmp_path / "b", *pruned)
    assert "resuming at step" in done.stderr
    assert student_bytes(tmp_path / "a") == student_bytes(tmp_path / "b")


ALIKE = "distill.timestep_weights.kind=uniform"
ONE_BRANCH = {"guided": GUIDED, "segments": SEGMENTS, "progressive": PROGRESSIVE, "consistency": CONSISTENCY}


@pytest.mark.parametrize("more", ONE_BRANCH.values(), ids=ONE_BRANCH)
def test_a_one_branch_student_with_a_bank_that_was_killed_resumes_exactly(
    taught: tuple[Path, Path], tmp_path: Path, more: tuple[str, ...]
) -> None:
    recipe, _ = taught
    changes = (*more, "distill.teacher_bank=64", ALIKE)
    arguments = (*SLOW_STEPS, *(word for change in changes for word in ("--set", change)))
    assert run("distill", recipe, "--run-dir", tmp_path / "a", *arguments).returncode == 0
    work = tmp_path / "b" / "tiny" / ".work" / "student"
    kill_at(20, work, "distill", recipe, "--run-dir", tmp_path / "b", *arguments)
    done = run("distill", recipe, "--run-dir", tmp_path / "b", *arguments)
    assert done.returncode == 0 and "resuming at step" in done.stderr
    assert student_bytes(tmp_path / "a") == student_bytes(tmp_path / "b")


@pytest.mark.parametrize("bank", [0, 64])
@pytest.mark.parametrize(
    ("kind", "term"), zip(ONE_BRANCH, ("guided", "landing", "landing", "consistency"), strict=True)
)
def test_two_processes_give_the_loss_curve_of_one_with_one_branch_too(
    taught: tuple[Path, Path], tmp_path: Path, kind: str, term: str, bank: int
) -> None:
    recipe, _ = taught
    changes = (*ONE_BRANCH[kind], f"distill.teacher_bank={bank}", "student.architecture.dropout=0", ALIKE)
    shared = tuple(word for change in changes for word in ("--set", change))
    assert run("distill", recipe, "--run-dir", tmp_path / "one", *shared).returncode == 0
    done = launch("distill", recipe, "--run-dir", tmp_path / "two", *shared)
    assert done.returncode == 0, done.stderr
    one, two = (read_metrics(tmp_path / n / "tiny" / "student" / "metrics.jsonl") for n in ("one", "two"))
    for name in ("loss", term, "grad_norm"):
        assert [r[name] for r in two] == pytest.approx([r[name] for r in one], rel=2e-4), name


@pytest.mark.parametrize("kind", ["tirt", "published"])
def test_two_processes_give_the_loss_curve_of_one(taught: tuple[Path, Path], tmp_path: Path, kind: str) -> None:
    recipe, _ = taught
    # Dropout draws differ between processes, so this student has none.
    shared = ("--set", "student.architecture.dropout=0", "--set", f"distill.timestep_weights.kind={kind}")
    assert run("distill", recipe, "--run-dir", tmp_path / "one", *shared).returncode == 0
    done = launch("distill", recipe, "--run-dir", tmp_path / "two", *shared)
    assert done.returncode == 0, done.stderr
    one, two = (read_metrics(tmp_path / n / "tiny" / "student" / "metrics.jsonl") for n in ("one", "two"))
    for name in ("loss", "imitation", "unconditional", "anchor", "grad_norm"):
        assert [r[name] for r in two] == pytest.approx([r[name] for r in one], rel=2e-4), name


def test_gradient_accumulation_gives_the_same_loss_curve(taught: tuple[Path, Path], tmp_path: Path) -> None:
    recipe, _ = taught
    shared = ("--set", "student.architecture.dropout=0")
    for name, parts in (("one", "1"), ("four", "4")):
        accumulate = ("--set", f"distill.gradient_accumulation={parts}")
        assert run("distill", recipe, "--run-dir", tmp_path / name, *shared, *accumulate).returncode == 0
    one, four = (read_metrics(tmp_path / n / "tiny" / "student" / "metrics.jsonl") for n in ("one", "four"))
    assert [r["loss"] for r in four] == pytest.approx([r["loss"] for r in one], rel=2e-4)


def test_a_loss_that_is_not_finite_stops_names_the_step_and_keeps_the_last_checkpoint(
    taught: tuple[Path, Path], tmp_path: Path
) -> None:
    recipe, _ = taught
    explode = ("--set", "distill.learning_rate=1e9", "--set", "distill.warmup_steps=0")
    done = run("distill", recipe, "--run-dir", tmp_path, *SLOW_STEPS, *explode)
    assert done.returncode == 2
    assert "the loss is not finite" in done.stderr
    assert "Traceback" not in done.stderr
    step = int(done.stderr.split("error: step ")[1].split(":")[0])
    work = tmp_path / "tiny" / ".work" / "student"
    kept = torch.load(work / checkpoint.FILE, weights_only=True)
    assert kept["step"] == step - 1
    assert not (tmp_path / "tiny" / "student").exists()


def test_a_checkpoint_of_another_recipe_is_refused_until_fresh(taught: tuple[Path, Path], tmp_path: Path) -> None:
    recipe, _ = taught
    kill_at(3, tmp_path / "tiny" / ".work" / "student", "distill", recipe, "--run-dir", tmp_path, *SLOW_STEPS)
    other = ("--set", "distill.steps=6", "--set", "distill.learning_rate=0.01")
    done = run("distill", recipe, "--run-dir", tmp_path, *other)
    assert done.returncode == 2
    assert "a checkpoint of another recipe" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert run("distill", recipe, "--run-dir", tmp_path, *other, "--fresh").returncode == 0


def test_a_damaged_checkpoint_is_refused(taught: tuple[Path, Path], tmp_path: Path) -> None:
    recipe, _ = taught
    work = tmp_path / "tiny" / ".work" / "student"
    work.mkdir(parents=True)
    (work / checkpoint.FILE).write_bytes(b"PK\x03\x04 not a checkpoint")
    done = run("distill", recipe, "--run-dir", tmp_path)
    assert done.returncode == 2
    assert "damaged" in done.stderr and "--fresh" in done.stderr


def test_a_finished_stage_is_not_run_again(taught: tuple[Path, Path], uninterrupted: Path) -> None:
    recipe, folder = taught
    before = (uninterrupted / "tiny" / "student" / "manifest.json").stat().st_mtime_ns
    done = run("distill", recipe, "--run-dir", uninterrupted, *SLOW_STEPS)
    assert done.returncode == 0
    assert (uninterrupted / "tiny" / "student" / "manifest.json").stat().st_mtime_ns == before
    assert folder.is_dir()


def test_mirrored_images_make_another_student(taught: tuple[Path, Path], tmp_path: Path) -> None:
    recipe, _ = taught
    assert run("distill", recipe, "--run-dir", tmp_path).returncode == 0
    plain = student_bytes(tmp_path)
    for flip, same in (("true", False), ("false", True)):
        done = run("distill", recipe, "--run-dir", tmp_path, "--set", f"data.horizontal_flip={flip}", "--fresh")
        assert done.returncode == 0, done.stderr
        assert (student_bytes(tmp_path) == plain) is same


def test_tirt_transfer_leaves_lambda_bit_identical_through_a_run(
    taught: tuple[Path, Path], uninterrupted: Path
) -> None:
    from safetensors.torch import load_file

    _, folder = taught
    name = "timestep_weights.safetensors"
    teacher = load_file(folder / "runs" / "tiny" / "teacher" / name)["lambda"]
    student = load_file(uninterrupted / "tiny" / "student" / name)["lambda"]
    assert torch.equal(teacher, student)
    assert float(teacher.abs().max()) > 0


def test_every_line_of_metrics_has_each_term_and_the_speed(uninterrupted: Path) -> None:
    lines = (uninterrupted / "tiny" / "student" / "metrics.jsonl").read_text().splitlines()
    for record in map(json.loads, lines):
        assert record["terms"] == ["imitation", "unconditional", "anchor"]
        assert record["images_per_s"] > 0
        expected = record["imitation"] + record["unconditional"] + 0.1 * record["anchor"]
        assert record["loss"] == pytest.approx(expected, rel=1e-4)
