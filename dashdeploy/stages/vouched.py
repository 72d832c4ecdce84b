"""Single files that a SHA-256 beside them vouches for: a kill leaves the old file or the new one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dashdeploy.errors import writing
from dashdeploy.files import write_whole
from dashdeploy.stages.hashes import file_sha256
from dashdeploy.stages.read import sidecar_text


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path` to write the file to; at the end it is synced and takes the place of `path`.

    <path>.sha256 holds the hash of the file. While the two change places it holds both hashes, the new one first, so
    that the file is vouched for whenever the process is killed. After an error nothing has changed.

    Raises:
        UserError: it cannot be written; the message names `path`.
    """
    part, sidecar = _beside(path, ".part"), _beside(path, ".sha256")
    try:
        with writing(path):
            yield part
            with part.open("rb") as file:
                os.fsync(file.fileno())
            line = f"{file_sha256(part)}  {path.name}\n".encode()
            if path.is_file() and sidecar.is_file():
                write_whole(sidecar, line + sidecar.read_bytes().splitlines(keepends=True)[0])
            else:
                write_whole(sidecar, line)
            part.chmod(sidecar.stat().st_mode)  # as the umask says, whatever wrote it
            part.replace(path)
            write_whole(sidecar, line)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def undamaged(path: Path) -> bool:
    """Whether the file at `path` is the one that `replacing` wrote, to the last bit."""
    sidecar = _beside(path, ".sha256")
    return sidecar.is_file() and sidecar_text(path) in sidecar.read_bytes().splitlines(keepends=True)


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)
