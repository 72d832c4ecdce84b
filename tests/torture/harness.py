"""Run the command line in a forked child with bounds on time and memory, and judge how it ended.

The parent has imported everything and is warm, so a case costs a fork and the work itself. A child that hangs is ended
by its alarm, one that takes memory without bound by its limit; neither harms the tests.
"""

from __future__ import annotations

import os
import re
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

LIMIT_S = 20
"""Seconds that a case may take."""
MEMORY_MIB = 1536
"""Memory that a case may take on top of what the warm parent has mapped."""


@dataclass(frozen=True)
class Outcome:
    """How a child ended: `code` is its exit code, or minus the signal that killed it."""

    code: int
    stdout: str
    stderr: str
    seconds: float

    def problem(self) -> str | None:
        """What breaks the promise "the right result, or exit 2 with one line"; None: nothing."""
        tail = self.stderr.strip().splitlines()[-1:] or [""]
        if self.code == -signal.SIGALRM:
            return f"hang: more than {LIMIT_S} s"
        if self.code < 0:
            return f"killed by {signal.Signals(-self.code).name}"
        if "Traceback (most recent call last)" in self.stderr:
            return f"traceback: {tail[0][:300]}"
        if self.code == 0:
            return None
        if self.code != 2:
            return f"exit code {self.code}: {tail[0][:300]}"
        if "Usage: " in self.stderr:  # typer's own refusal of an argument
            return None
        said = re.findall(r"^error: .*(?:\n  .*)*$", self.stderr, re.MULTILINE)
        if len(said) != 1 or not self.stderr.rstrip().endswith(said[0].rstrip()):
            return f"not one error: {self.stderr[-300:]!r}"
        if [c for c in said[0] if c != "\n" and not c.isprintable()]:
            return f"control characters in {said[0][:300]!r}"
        return None


def command(args: Sequence[str], *, cwd: Path, limit_s: int = LIMIT_S, memory_mib: int = MEMORY_MIB) -> Outcome:
    """`dashdeploy ARGS` in a child whose working folder is `cwd`."""

    def work() -> None:
        from dashdeploy.cli.app import main

        main(list(args))

    return call(work, cwd=cwd, limit_s=limit_s, memory_mib=memory_mib)


def call(work: Callable[[], object], *, cwd: Path, limit_s: int = LIMIT_S, memory_mib: int = MEMORY_MIB) -> Outcome:
    """Any function in such a child; a UserError of it ends as that of a command does."""
    out, err = (cwd / f".torture-{os.getpid()}-{name}" for name in ("out", "err"))
    begin = time.monotonic()
    child = os.fork()
    if not child:
        code = 70
        try:
            _bound(limit_s, memory_mib)
            os.chdir(cwd)
            for stream, path in ((1, out), (2, err)):
                os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), stream)
            sys.stdout = open(1, "w", closefd=False, encoding="utf-8")  # noqa: SIM115 (they live as long as the child)
            sys.stderr = open(2, "w", closefd=False, encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
            code = _ended(work)
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    seconds = time.monotonic() - begin
    texts = [path.read_text(errors="replace") if path.exists() else "" for path in (out, err)]
    for path in (out, err):
        path.unlink(missing_ok=True)
    return Outcome(os.waitstatus_to_exitcode(status), *texts, seconds)


def _bound(limit_s: int, memory_mib: int) -> None:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.alarm(limit_s)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + memory_mib * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**30, 2**30))


def _ended(work: Callable[[], object]) -> int:
    """What a process would exit with after `work`."""
    from dashdeploy.errors import UserError, fault, printable

    try:
        work()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(bool(end.code))
    except BaseException as error:
        line = str(error) if isinstance(error, UserError) else fault(error)
        if line is None:
            traceback.print_exc()
            return 1
        print(f"error: {printable(line)}", file=sys.stderr)
        return 2
    return 0
