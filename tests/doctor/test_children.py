"""No probe, and nothing that a probe has started, outlives the doctor: after a timeout, Ctrl-C, or its own death."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dashdeploy.doctor import examine as module
from dashdeploy.doctor.examine import examine

PACKAGE = Path(module.__file__).parents[2]
HANGING = """
import subprocess, sys, time
from pathlib import Path
own = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"])
Path({pids!r}).write_text(f"{{__import__('os').getpid()}} {{own.pid}}")
time.sleep(120)
"""
DOCTOR = """
import signal, sys
from dashdeploy.doctor.examine import examine
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a shell starts in the background
examine(["first", "second", "third"], timeout_s=60, child=(sys.executable, {script!r}))
"""


def alive(pid: int) -> bool:
    """Whether it runs; a zombie, which only its parent can remove, does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def gone(pids: list[int], within_s: float = 10.0) -> bool:
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        if not any(alive(pid) for pid in pids):
            return True
        time.sleep(0.05)
    return False


def await_pids(file: Path) -> list[int]:
    end = time.monotonic() + 30
    while not (file.is_file() and len(file.read_text().split()) == 2):
        assert time.monotonic() < end, "the probe did not start"
        time.sleep(0.05)
    return [int(pid) for pid in file.read_text().split()]


@pytest.fixture
def hanging(tmp_path: Path) -> tuple[Path, Path]:
    """(script, pids): a probe that starts a process of its own, writes both pids, and hangs."""
    script, pids = tmp_path / "hang.py", tmp_path / "pids"
    script.write_text(HANGING.format(pids=str(pids)))
    return script, pids


def test_a_timeout_ends_what_the_probe_has_started_and_does_not_wait_for_it(hanging: tuple[Path, Path]) -> None:
    script, pids = hanging
    began = time.monotonic()
    row = examine(["x"], timeout_s=3.0, child=(sys.executable, str(script)))["x"]
    assert time.monotonic() - began < 20
    assert (row.status, row.detail) == ("broken", "did not answer within 3 s")
    assert gone(await_pids(pids))


def test_ctrl_c_leaves_no_child_and_starts_no_other(hanging: tuple[Path, Path]) -> None:
    script, pids = hanging
    code = DOCTOR.format(script=str(script))
    with subprocess.Popen([sys.executable, "-c", code], cwd=PACKAGE, stderr=subprocess.DEVNULL) as doctor:
        children = await_pids(pids)
        assert all(alive(pid) for pid in children)
        doctor.send_signal(signal.SIGINT)
        assert doctor.wait(15) != 0
    assert gone(children + await_pids(pids))


def test_a_probe_ends_with_a_doctor_that_is_killed(tmp_path: Path) -> None:
    pids, script = tmp_path / "pids", tmp_path / "probe.py"
    script.write_text(
        "import os, sys, time\n"
        "from pathlib import Path\n"
        "from dashdeploy.doctor import probes\n"
        "def hang(module):\n"
        f"    Path({str(pids)!r}).write_text(f'{{os.getpid()}} {{os.getpid()}}')\n"
        "    time.sleep(120)\n"
        "probes.PROBES['x'] = probes.Probe('X', hang)\n"
        "probes.main('x', Path(sys.argv[2]))\n"
    )
    code = DOCTOR.format(script=str(script)).replace('["first", "second", "third"]', '["x"]')
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE)}
    with subprocess.Popen([sys.executable, "-c", code], cwd=PACKAGE, env=environment) as doctor:
        children = await_pids(pids)
        doctor.kill()
    assert gone(children)
