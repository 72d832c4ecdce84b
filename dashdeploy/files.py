"""Writing a file so that it is there whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from dashdeploy.errors import writing


def write_whole(path: Path, content: bytes | str) -> None:
    """Write a file beside `path` and rename it: nobody ever reads half of it, and after an error nothing has changed.

    A new file has the mode that the umask gives, an old one keeps its own. A link is followed. A device or a pipe, as
    /dev/stdout, is written to as it is.

    Args:
        content: text is written as UTF-8.

    Raises:
        UserError: it cannot be written; the message says why.
    """
    data = content.encode() if isinstance(content, str) else content
    with writing(path, named=True):
        target = path.resolve()
        if target.exists() and not target.is_file():
            target.write_bytes(data)  # a device or a pipe; of a folder this says that it is one
            return
        with replacing(target) as draft:
            draft.write(data)


def refuse_unwritable(path: Path) -> None:
    """Refuse a path that `write_whole` could not write to, before the work whose result it is for.

    Raises:
        UserError: it is a folder, its folder is not there, or the user may not write there.
    """
    with writing(path, named=True):
        target = path.resolve()
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        written = target if target.exists() and not target.is_file() else target.parent
        written.stat()
        if not os.access(written, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


@contextmanager
def replacing(target: Path) -> Iterator[BinaryIO]:
    """A draft beside `target`, no link, to write to; after the block it has taken its place, after an error it is gone.

    For what does not fit into memory; `write_whole` is for the rest, and says what holds of both.
    """
    # The same name each time, so that what a killed process left goes with the next.
    name = hashlib.sha256(os.fsencode(target.name)).hexdigest()[:12]
    draft = target.with_name(f".dashdeploy-{name}.part")
    with os.fdopen(_locked(draft), "wb") as opened:
        try:
            opened.truncate(0)
            yield opened
            opened.flush()
            if target.exists():
                os.fchmod(opened.fileno(), target.stat().st_mode & 0o777)
            os.fsync(opened.fileno())
            draft.replace(target)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise


def _locked(draft: Path) -> int:
    """A descriptor of the draft that no other process writes to: one that writes the same file is waited for."""
    while True:
        file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            if leads_to(draft, file):
                return file
        except BaseException:
            os.close(file)
            raise
        os.close(file)  # it has been renamed or removed meanwhile


def leads_to(path: Path, file: int) -> bool:
    """Whether a path still leads to an open file, which its last holder may have renamed or removed."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False
