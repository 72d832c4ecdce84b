"""Streams and surroundings that a terminal can have: no traceback, and the result where it can be told."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import dashdeploy
from dashdeploy.cli.output import NOT_READ

REPOSITORY = Path(dashdeploy.__file__).resolve().parents[1]
PYTHON = f"{sys.executable} -m dashdeploy"


def shell(command: str, *, cwd: Path = REPOSITORY, **environment: str) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of a line of bash; `dd` in it is dashdeploy."""
    surroundings = {**os.environ, "PYTHONPATH": str(REPOSITORY), **environment}
    line = f'set -o pipefail; dd() {{ {PYTHON} "$@"; }}; {command}'
    done = subprocess.run(["bash", "-c", line], cwd=cwd, env=surroundings, capture_output=True, timeout=120)
    out, err = (text.decode(errors="surrogateescape") for text in (done.stdout, done.stderr))
    assert "Traceback" not in err and "Exception ignored" not in err, err
    return done.returncode, out, err


ASCII = {"PYTHONIOENCODING": "ascii"}
POSIX = {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.parametrize("environment", [ASCII, POSIX, {"PYTHONIOENCODING": "latin-1"}])
def test_another_encoding_gets_what_is_near(environment: dict[str, str]) -> None:
    code, out, _ = shell("dd recipes validate digits && dd recipes schema", **environment)
    assert code == 0
    assert out.startswith("digits: ok\n") and ">=" in shell("dd recipes validate /dev/null", **environment)[2] + ">="
    code, out, err = shell("dd run digits --dry-run --set seed=-1", **environment)
    assert (code, out) == (2, "") and "must be >= 0, got -1" in err


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("dd recipes ls >&-", 0),
        ("dd recipes ls --json >&- 2>&- <&-", 0),
        ("dd recipes validate no-such 2>&-", 2),
        ("dd run no-such >&- 2>&-", 2),
    ],
)
def test_closed_streams(command: str, code: int) -> None:
    assert shell(command)[0] == code


@pytest.mark.parametrize("command", ["dd recipes schema", "dd recipes ls --json", "dd run digits --dry-run"])
def test_a_reader_that_has_gone(command: str) -> None:
    assert shell(f"{command} | true")[::2] == (NOT_READ, "")


def test_a_reader_of_stderr_that_has_gone() -> None:
    assert shell("dd run no-such 2>&1 >/dev/null | true")[0] == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("command", ["dd recipes ls", "dd recipes schema --json"])
def test_a_full_disk_behind_stdout(command: str) -> None:
    code, _, err = shell(f"{command} > /dev/full")
    assert code == 2 and err.startswith("error: ") and "disk is full" in err and err.count("\n") == 1


def test_a_working_folder_that_was_deleted(tmp_path: Path) -> None:
    code, out, err = shell("mkdir gone && cd gone && rmdir ../gone && dd ls", cwd=tmp_path)
    assert (code, out) == (2, "")
    assert err == "error: the folder that you are in has been deleted. Change to another one first.\n"
    assert shell("mkdir gone && cd gone && rmdir ../gone && dd --version", cwd=tmp_path)[0] == 0


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("setpriv") is None, reason="needs root and setpriv")
def test_an_unknown_user_without_a_home() -> None:
    code, out, err = shell("unset HOME XDG_CACHE_HOME; setpriv --reuid 12345 --clear-groups " + f"{PYTHON} recipes ls")
    assert (code, err) == (0, "") and "digits" in out


@pytest.mark.parametrize(
    "environment",
    [
        {"COLUMNS": "1"},
        {"COLUMNS": "0"},
        {"COLUMNS": "100000"},
        {"COLUMNS": "wide"},
        {"TERM": "dumb"},
        {"TERM": ""},
        {"NO_COLOR": "1"},
        {"FORCE_COLOR": "1"},
    ],
    ids=str,
)
def test_terminals_of_every_kind(environment: dict[str, str]) -> None:
    code, out, err = shell("dd recipes ls && dd ls --help && dd show recipes/teachers/digits", **environment)
    assert (code, err) == (0, "")
    assert "parameters" in out


@pytest.mark.parametrize("arguments", [["doctor"], ["doctor", "--json", "-q"]])
def test_ctrl_c_is_one_line(arguments: list[str]) -> None:
    # Ignored in what a shell starts in the background.
    heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    command = [sys.executable, "-c", f"{heard}from dashdeploy.cli.app import main; main({arguments})"]
    child = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(1.5)  # long enough to begin; the doctor takes many seconds
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60)
    assert (child.returncode, out, err) == (130, "", "stopped: by Ctrl-C\n")
