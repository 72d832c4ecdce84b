"""Who may write: the lock of a stage, and what a killed process left behind, which the next holder puts right."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dashdeploy.errors import UserError
from dashdeploy.files import leads_to
from dashdeploy.stages.read import MANIFEST, read_stage
from dashdeploy.terminal import say

WORK = ".work"
LOCK, DRAFT, REPLACED = "lock", "draft", "replaced"


def work_path(folder: Path) -> Path:
    """Where what is at work on the stage in `folder` lies: its lock, draft and checkpoints."""
    return folder.parent / WORK / folder.name


@contextmanager
def exclusive(folder: Path, *, fresh: bool = False) -> Iterator[Path]:
    """The work folder of the stage in `folder`, with no other process in it; a draft that a kill left is gone.

    At the end it is removed, unless it holds more than the lock: checkpoints stay until `clear`.

    Args:
        fresh: without what an interrupted run had left in it.

    Raises:
        UserError: another process holds it.
    """
    work = work_path(folder)
    with _locked(work):
        settle(folder, work)
        if fresh:
            clear(work)
        try:
            yield work
        finally:
            with suppress(OSError):  # checkpoints are in it, or another stage is at work
                if os.listdir(work) == [LOCK]:
                    (work / LOCK).unlink()
                    work.rmdir()
                    work.parent.rmdir()


def mend(folder: Path) -> None:
    """End what a kill left half-way in the stages below `folder`, where one is missing only because of that.

    For commands that read stages and do not make them: a stage that has vanished might be passed over.
    """
    for work in sorted((folder / WORK).glob("*")):
        if not (folder / work.name).exists():
            tidy(folder / work.name)


def tidy(folder: Path) -> None:
    """End what a kill left half-way of the one stage in `folder`, unless another process is at work there."""
    if work_path(folder).parent.exists():
        with suppress(UserError, OSError), exclusive(folder):  # at work there, or not ours to write
            pass


def clear(work: Path) -> None:
    """Remove everything from a work folder but its lock."""
    for path in work.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()


def settle(folder: Path, work: Path) -> None:
    """End what a kill left half-way: a whole draft takes the stage's place, any other goes, and so does `replaced`."""
    if _whole(work / DRAFT):
        take_place(folder, work)
    elif (work / REPLACED).exists() and not folder.exists():
        (work / REPLACED).rename(folder)
    for left in (work / DRAFT, work / REPLACED):
        if left.exists():
            shutil.rmtree(left)


def take_place(folder: Path, work: Path) -> None:
    """Put the draft into the stage's place: the stage moves to `replaced`, then the draft to the stage's place.

    After a kill between the two `settle` does the rest.
    """
    if folder.exists():
        if (work / REPLACED).exists():
            shutil.rmtree(work / REPLACED)
        folder.rename(work / REPLACED)
    (work / DRAFT).rename(folder)
    if (work / REPLACED).exists():
        shutil.rmtree(work / REPLACED)


def _whole(draft: Path) -> bool:
    try:
        return (draft / MANIFEST).is_file() and bool(read_stage(draft))
    except UserError:
        return False


@contextmanager
def _locked(work: Path) -> Iterator[None]:
    """Hold the lock in `work`, which is made if it is not there."""
    while True:
        try:
            work.mkdir(parents=True, exist_ok=True)
            file = (work / LOCK).open("a")
        except FileNotFoundError:  # its last holder has just removed the folder
            continue
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UserError(
                    f"{work}: another dashdeploy is at work there. Wait for it, or choose another --run-dir."
                ) from error
            if leads_to(work / LOCK, file.fileno()):
                yield
                return


@contextmanager
def in_turn(lock: Path, *, what: str) -> Iterator[None]:
    """Wait until no other process holds this lock file, and hold it; the end of its holder frees it.

    Args:
        what: what is made under the lock, for the line on stderr that says another process is making it.
    """
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for {what}, which another process is making")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
