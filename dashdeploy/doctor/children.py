"""The processes of the probes: each leads a process group of its own, so that none of them outlives its end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from typing import IO


class Stopped(Exception):
    """No more children are started: the run was interrupted."""


class Children:
    """The children that run now. From any thread."""

    def __init__(self) -> None:
        self._lock, self._running, self._stopped = threading.Lock(), set[subprocess.Popen[bytes]](), False

    def run(
        self, command: Sequence[str], *, environment: Mapping[str, str], said: IO[bytes], timeout_s: float
    ) -> int | None:
        """Run a command to its end; returns its exit code, negative for a signal, or None after a timeout.

        Args:
            said: a file for its stderr. A pipe would be held open by whatever the command has started itself.

        Raises:
            Stopped: `stop` was called.
        """
        with self._lock:  # a child that were started beside `stop` would be missed by it
            if self._stopped:
                raise Stopped
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=said,
                env=environment,
                start_new_session=True,
            )
            self._running.add(child)
        try:
            return child.wait(timeout_s)
        except subprocess.TimeoutExpired:
            _end(child)
            child.wait()
            return None
        finally:
            with self._lock:
                self._running.discard(child)

    def stop(self) -> None:
        """End every child and what it has started; start no more."""
        with self._lock:
            self._stopped = True
            for child in self._running:
                _end(child)


def _end(child: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
