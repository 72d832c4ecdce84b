"""Progress on stderr: time left and count at every width, plain lines in a file, nothing with --quiet."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest
from rich.progress import Task

from dashdeploy import progress, terminal
from dashdeploy.progress import MEGABYTES, Progress, in_width

NOTE = "loss 0.0123 · imitation 0.172 unconditional 0.176 anchor 1.3 · 489 images/s"


@pytest.fixture(autouse=True)
def _talks_again() -> Iterator[None]:
    yield
    terminal.set_quiet(False)


def halfway(**fields: object) -> Task:
    """A task whose first half is done."""
    shown = Progress()
    shown.add_task("student digits", total=4000, completed=2000, **fields)
    return shown.tasks[0]


@pytest.mark.parametrize("width", [24, 40, 60, 80, 120, 300])
def test_time_left_and_count_are_there_at_every_width(width: int) -> None:
    line = in_width(halfway(note=NOTE), width)
    assert len(line) <= width
    assert re.match(r"eta (\d:\d\d:\d\d|-:--:--)  2000/4000", line)


def test_the_bar_takes_what_is_left() -> None:
    task = halfway()
    bars = [in_width(task, width).count("━") + in_width(task, width).count("─") for width in (40, 60, 80, 200)]
    assert bars == [0, 20, 40, 40]
    assert in_width(task, 80).count("━") == 20, "half of it"
    assert in_width(task, 80, bar="#-").isascii()


def test_bytes_shares_and_unknown_totals() -> None:
    shown = Progress()
    download = shown.add_task("download", total=None, unit=MEGABYTES)
    shown.update(download, completed=12_300_000, total=170_000_000)
    shown.add_task("engine", total=1.0, completed=0.25)
    shown.add_task("gate", total=None)
    lines = [in_width(task, 80, bar="") if task.total is None else in_width(task, 80) for task in shown.tasks]
    assert "12.3/170.0 MB" in lines[0] and " 25%" in lines[1] and lines[2] == "eta -:--:--  0  gate"


def test_in_a_file_a_line_comes_every_so_often(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "FIRST_S", 0.0)
    monkeypatch.setattr(progress, "SHARE", 0.0)
    with Progress() as shown:
        task = shown.add_task("student digits", total=3)
        for _ in range(3):
            shown.update(task, note="loss 0.5")
            shown.advance(task)
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert re.fullmatch(r"student digits: 1/3, eta \S+, loss 0.5", lines[1])
    assert "\x1b" not in err and "3/3" not in err


def test_a_short_task_says_nothing_in_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.progress("quality", total=50) as advance:
        for _ in range(50):
            advance(1)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("how", ["quiet", "second process"])
def test_nothing_is_said_twice_or_unasked(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(progress, "FIRST_S", 0.0)
    if how == "quiet":
        terminal.set_quiet(True)
    else:
        monkeypatch.setenv("RANK", "1")
        monkeypatch.setenv("WORLD_SIZE", "2")
    with progress.progress("quality", total=5) as advance:
        advance(1)
    terminal.say("a line")
    terminal.warn("a damaged cache")
    expected = "warning: a damaged cache\n" if how == "quiet" else ""
    assert capsys.readouterr() == ("", expected)


CODE = """
import sys, time
from dashdeploy.progress import Progress
from dashdeploy.terminal import say
with Progress() as shown:
    task = shown.add_task("student digits", total=40, note="loss 0.0123 and much more than any narrow terminal shows")
    for step in range(40):
        shown.advance(task)
        time.sleep(0.02)
    say("a line above")
print("the result")
"""


def on_a_terminal(code: str, columns: int, **environment: str) -> tuple[str, str]:
    """(stdout, stderr) of Python code whose stderr is a terminal."""
    ours, theirs = pty.openpty()
    env = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR")}
    env |= {"COLUMNS": str(columns), "TERM": "xterm", **environment}
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=theirs, text=True, env=env)
    os.close(theirs)
    said = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # how Linux tells that the other end is closed
            break
        if not part:
            break
        said += part
    os.close(ours)
    out, _ = child.communicate(timeout=60)
    assert child.returncode == 0, said
    return out, said.decode()


@pytest.mark.parametrize("columns", [30, 80])
def test_on_a_terminal_a_line_renews_itself_and_fits(columns: int) -> None:
    out, said = on_a_terminal(CODE, columns)
    assert out == "the result\n"
    plain = [re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", line) for line in re.split(r"[\r\n]+", said)]
    shown = [line for line in plain if "/40" in line]
    assert len(shown) >= 3
    assert all(len(line.rstrip()) <= columns and line.startswith("eta ") for line in shown)
    assert "a line above" in plain


@pytest.mark.parametrize("environment", [{"TERM": "dumb"}, {"TERM": ""}])
def test_a_terminal_that_cannot_renew_a_line_gets_plain_ones(environment: dict[str, str]) -> None:
    _, said = on_a_terminal(CODE, 80, **environment)
    assert said.splitlines() == ["a line above"]


def test_a_terminal_of_another_encoding_gets_a_plain_bar() -> None:
    _, said = on_a_terminal(CODE, 120, PYTHONIOENCODING="ascii")
    assert "#" in said and said.isascii()
