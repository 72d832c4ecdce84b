"""The processes of one launch: how many there are, and what the main one does while the others wait for it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from dashdeploy.errors import Interrupted, UserError

T = TypeVar("T")
PATIENCE = timedelta(days=30)
"""How long a process waits for another. A benchmark takes longer than the minutes that torch allows by default."""


def state() -> PartialState:
    """This process among those of its launch; connects them when it is first called.

    Raises:
        UserError: the launcher started more processes than are connected, or a variable of its is no number.
    """
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        if not re.fullmatch(r"-?\d{1,9}", text := os.environ.get(name, "0")):
            raise UserError(
                f"environment variable {name} is {text[:60]!r}, and launchers of several processes set a number. "
                f"Without one: unset {name}"
            )
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    found = PartialState(cpu=on_cpu(), timeout=PATIENCE)
    if found.num_processes < launched:
        raise UserError(f"the launcher started {launched} processes, and {found.num_processes} are connected")
    return found


def on_cpu() -> bool:
    """Whether the processes compute on the CPU: the launcher says so, or there is nothing else."""
    return os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("true", "1") or not torch.accelerator.is_available()


def in_main(work: Callable[[], T]) -> T:
    """Carry out `work` in the main process alone; the others wait, and all return its result.

    Raises:
        UserError: in the other processes, if it failed in the main one, which raises the error itself.
    """
    here = state()
    if here.num_processes == 1:
        return work()
    if not here.is_main_process:
        try:
            ((ended, result),) = broadcast_object_list([None], from_process=0)
        except RuntimeError as error:  # the connection broke
            raise UserError("the main process has ended before its work was done; see what it says") from error
        if ended is not None:
            raise ended
        return result
    try:
        result = work()
    except BaseException as error:
        stopped = isinstance(error, Interrupted | KeyboardInterrupt)
        told = (
            Interrupted("the main process was stopped")
            if stopped
            else UserError("the main process failed; see what it says")
        )
        broadcast_object_list([(told, None)], from_process=0)
        raise
    broadcast_object_list([(None, result)], from_process=0)
    return result


def together() -> None:
    """Wait until all processes are here.

    Raises:
        UserError: another process has ended before.
    """
    try:
        state().wait_for_everyone()
    except RuntimeError as error:  # the connection broke
        raise UserError("another process has ended before its part was done; see what it says") from error
