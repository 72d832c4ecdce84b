"""The commands that share the preflight: what they say, and that one process of several says it."""

from __future__ import annotations

from pathlib import Path

import pytest

from dashdeploy.cli.app import main
from tests.preflight.test_examine import READY
from tests.training import two


def said(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[object, str, str]:
    with pytest.raises(SystemExit) as caught:
        main(args)
    return caught.value.code, *capsys.readouterr()


@pytest.fixture
def ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "ready.yaml"
    path.write_text(READY)
    return path


def test_validate_full_says_what_a_run_would_do_or_what_it_lacks(
    ready: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = said(capsys, "recipes", "validate", "--full", str(ready))
    first, *plan = out.splitlines()
    assert (code, first) == (0, f"{ready}: ok")
    assert [line.split()[0] for line in plan] == ["teach", "distill", "export", "bench"]
    ready.write_text(READY + "export: [nope]\nbench: {quality: {features: nope}}\n")
    assert said(capsys, "recipes", "validate", str(ready))[0] == 0, "each value by itself is valid"
    code, out, error = said(capsys, "recipes", "validate", "--full", str(ready))
    assert (code, out) == (2, "")
    assert "2 problems" in error and "unknown export target 'nope'" in error and "no committed feature network" in error
    assert not (ready.parent / "runs").exists()


@pytest.mark.parametrize("command", [["run", "--dry-run"], ["run"], ["distill"]])
def test_a_command_ends_before_anything_is_made(
    command: list[str], ready: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lacks = "distill.tracker=clearml"
    code, _, error = said(capsys, *command, str(ready), "--set", lacks)
    assert code == 2 and error.splitlines() == [
        "error: tracker: clearml is not installed here. Install it with: pip install clearml"
    ]
    assert not list(ready.parent.glob("runs/ready/*"))


@pytest.mark.slow
def test_every_process_looks_and_one_tells(ready: Path) -> None:
    done = two.launch("distill", ready, "--run-dir", ready.parent / "runs", "--set", "distill.batch_size=7")
    assert done.returncode != 0
    assert done.stderr.count("error: batch_size 7 does not divide among 2 processes") == 1
    assert not (ready.parent / "runs" / "ready" / "student").exists()
