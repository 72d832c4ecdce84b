"""Writing a file so that it is there whole or not at all."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from dashdeploy.errors import UserError


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
    try:
        target = path.resolve()
        if target.exists() and not target.is_file():
            target.write_bytes(data)  # a device or a pipe; of a folder this says that it is one
            return
        _replace(target, data)
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: a link to itself; ValueError: a NUL
        raise UserError(f"{str(path)!r}: cannot be written ({getattr(error, 'strerror', None) or error})") from error


def _replace(target: Path, data: bytes) -> None:
    draft = target.with_name(f".dashdeploy-{secrets.token_hex(6)}.part")
    file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with os.fdopen(file, "wb") as opened:
            opened.write(data)
            opened.flush()
            if target.exists():
                os.fchmod(opened.fileno(), target.stat().st_mode & 0o777)
            os.fsync(opened.fileno())
        draft.replace(target)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
