"""Numbers and names on the command line that nobody should give, and what the machine refuses: one line, exit 2."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest
import typer

from dashdeploy.cli import app as root
from dashdeploy.cli.sample import parse_labels
from dashdeploy.errors import UserError
from dashdeploy.report.grid import grid_png


def said(args: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as caught:
        root.main(args)
    assert caught.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device", "x.png"), PermissionError(errno.EACCES, "denied", "x.png")],
)
def test_what_the_machine_refuses_is_one_line(
    error: OSError, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise error

    app = typer.Typer(pretty_exceptions_enable=False)
    app.callback()(lambda: None)
    app.command("fail")(fail)
    monkeypatch.setattr(root, "app", app)
    text = said(["fail"], capsys)
    assert text.startswith("error: x.png: ") and text.count("\n") == 1


def test_control_characters_of_a_name_do_not_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert "\x1b" not in said(["recipes", "validate", "./a\x1b[31mb\nerror: no"], capsys)


@pytest.mark.parametrize(
    "options",
    [
        ["--seed", str(2**64)],
        ["--threads", "5000"],
        ["--columns", "100000"],
        ["--scale", "1000"],
        ["--steps", str(10**18)],
        ["--guidance", "1e300"],
        ["--guidance", "nan"],
        ["--labels", "0-9999999999"],
        ["--labels", "9" * 5000],
        ["--device", "mps"],
    ],
    ids=lambda options: options[0] + options[1][:12],
)
def test_numbers_of_sample_out_of_all_proportion(
    options: list[str], tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said(["sample", str(tiny_run), "-o", str(tmp_path / "x.png"), *options], capsys)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_a_limit_that_is_not_finite_is_refused(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "is not a finite number" in said(["diff", "a", "b", f"--max-slowdown={value}"], capsys)


def test_class_indices_may_have_zeros_before_them() -> None:
    assert parse_labels("0-2,0007") == [0, 1, 2, 7]
    with pytest.raises(UserError, match="at most 20,000 classes"):
        parse_labels("0-20000")


def test_a_picture_that_no_viewer_opens_is_refused_before_it_is_made() -> None:
    with pytest.raises(UserError, match=r"the picture would have [\d,]+×[\d,]+ pixels"):
        grid_png(np.zeros((1, 3, 512, 512), np.uint8), 1, scale=64)
