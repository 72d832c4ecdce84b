"""Stopping a training run from outside: the first SIGINT or SIGTERM asks, and the run saves before it ends."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from accelerate import Accelerator


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """The signals received so far; a second one ends the process at once."""
    received: list[int] = []
    old: dict[int, Any] = {}

    def on_signal(number: int, frame: object) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    try:
        for number in (int(signal.SIGINT), int(signal.SIGTERM)):
            old[number] = signal.signal(number, on_signal)
    except ValueError:
        # Not the main thread: signals stay with whoever runs us.
        old = {}
    try:
        yield received
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def any_process(accelerator: Accelerator, received: list[int]) -> bool:
    """Whether any process of the run was asked to stop; all processes have the same answer."""
    if accelerator.num_processes == 1:
        return bool(received)
    if received:
        accelerator.set_trigger()
    return bool(accelerator.check_trigger())
