"""Progress on stderr: a line that renews itself on a terminal, in a file a plain line every so often."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from rich import progress as rich_progress
from rich.console import Console
from rich.progress import Task, TaskID
from rich.text import Text

from dashdeploy import terminal

FIRST_S, SHARE = 30.0, 1 / 20
"""In a file the first line comes after FIRST_S; the next ones as long after the last, or this share of the time."""
BAR, LEAST_BAR = 40, 6
"""Most and fewest columns of a bar."""
MEGABYTES = "MB"
DUMB = ("", "dumb", "unknown")
"""Values of TERM of a terminal that cannot renew a line."""


class Progress(rich_progress.Progress):
    """Tasks that are shown while they last: add_task, then advance or update; `note=` is shown behind.

    A task of `unit=MEGABYTES` counts bytes. A total of None is not known yet.
    """

    def __init__(self) -> None:
        self._live_line = not terminal.quiet() and sys.stderr.isatty() and os.environ.get("TERM", "dumb") not in DUMB
        super().__init__(
            console=Console(stderr=True, force_terminal=self._live_line),
            transient=True,
            disable=not self._live_line,
            speed_estimate_period=600,
        )
        self._spoken: dict[TaskID, float] = {}

    def get_renderables(self) -> Iterator[Text]:
        """One line for each task that goes on, as wide as the terminal at most."""
        for task in self.tasks:
            if not task.finished:
                bar = "━─" if self.console.encoding.startswith("utf") else "#-"
                yield Text(in_width(task, self.console.width, bar=bar), no_wrap=True, overflow="crop")

    def update(self, task_id: TaskID, **changes: Any) -> None:
        """See rich.progress.Progress.update."""
        super().update(task_id, **changes)
        self._speak(task_id)

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        """`advance` more are done."""
        super().advance(task_id, advance)
        self._speak(task_id)

    def _speak(self, task_id: TaskID) -> None:
        """The plain line, where there is no terminal and it is time."""
        if self._live_line:
            return
        task, now = self._tasks[task_id], time.monotonic()
        last = self._spoken.setdefault(task_id, now - (task.elapsed or 0))
        if now - last >= max(FIRST_S, SHARE * (task.elapsed or 0)) and not task.finished:
            self._spoken[task_id] = now
            terminal.say(", ".join([f"{task.description}: {_count(task)}", _eta(task), *_note(task)]))


@contextmanager
def progress(title: str, *, total: int) -> Iterator[Callable[[int], None]]:
    """One task; call what it yields with the number of what is done more."""
    with Progress() as shown:
        task = shown.add_task(title, total=total)
        yield lambda count: shown.advance(task, count)


def in_width(task: Task, width: int, *, bar: str = "━─") -> str:
    """A task on one line of `width` columns: time left, count, title, note, and a bar in the room that is left.

    Args:
        bar: its character for what is done, and for what is not.
    """
    front, behind = f"{_eta(task)}  {_count(task)}", "  ".join([task.description, *_note(task)])
    room = min(BAR, width - len(front) - len(behind) - 4)
    if room < LEAST_BAR or not task.total:
        return f"{front}  {behind}"[:width]
    done = round(room * min(1.0, task.completed / task.total))
    return f"{front}  {bar[0] * done}{bar[1] * (room - done)}  {behind}"


def _eta(task: Task) -> str:
    left = task.time_remaining
    return f"eta {'-:--:--' if left is None else timedelta(seconds=round(left))}"


def _count(task: Task) -> str:
    if task.fields.get("unit") == MEGABYTES:
        done, *total = (f"{v / 1e6:.1f}" for v in (task.completed, task.total) if v is not None)
        return f"{'/'.join([done, *total])} MB"
    if task.total == 1:
        return f"{task.completed:.0%}"
    return f"{task.completed:g}" if task.total is None else f"{task.completed:.0f}/{task.total:.0f}"


def _note(task: Task) -> list[str]:
    note = task.fields.get("note")
    return [str(note)] if note else []
