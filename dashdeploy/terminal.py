"""What a person at the terminal meets beside the result: lines on stderr, and streams that take any text."""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

_PLAIN = str.maketrans({"×": "x", "–": "-", "—": "-", "−": "-", "·": "-", "…": "...", "→": "->", "≥": ">=", "≤": "<="})
_NEAREST = "dashdeploy.nearest"
_quiet = False


def set_quiet(on: bool) -> None:
    """Leave out progress and the lines of `say`; warnings and errors stay."""
    global _quiet
    _quiet = on


def first_process() -> bool:
    """Whether this process talks: of those that a launcher started together only the first does.

    A RANK without a WORLD_SIZE of several is none of a launcher's: a cluster's, say.
    """
    return os.environ.get("RANK", "0") == "0" or os.environ.get("WORLD_SIZE", "1") == "1"


def quiet() -> bool:
    """Whether progress is left out: asked for, or another process shows it."""
    return _quiet or not first_process()


def say(text: str) -> None:
    """A line on stderr on how the work goes."""
    if not quiet():
        tell(text)


def warn(text: str) -> None:
    """A line on stderr that `--quiet` leaves in: the result is not what one may take it for."""
    if first_process():
        tell(f"warning: {text}")


def plain_warnings() -> None:
    """Show what this package warns of by Python's `warnings` as `warn` does, each text once; others as Python does."""
    usual, package, told = warnings.showwarning, str(Path(__file__).parent), set[str]()

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if not filename.startswith(package):
            usual(message, category, filename, lineno, file, line)
        elif str(message) not in told:
            told.add(str(message))
            warn(str(message))

    warnings.showwarning = show


def tell(text: str) -> None:
    """A line on stderr, whoever listens."""
    with contextlib.suppress(OSError):  # nobody reads stderr any more: no reason to lose the work
        print(text, file=sys.stderr, flush=True)


def prepare_streams() -> None:
    """Let stdout and stderr take any text: a closed one has no effect, another encoding than UTF-8 gets what is near.

    Bytes of file names that are not UTF-8 are written as they are.
    """
    # The next files that are opened would get the numbers of closed streams, and be written to as if they were those.
    while (spare := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(spare)
    codecs.register_error(_NEAREST, _nearest)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 (for the whole process)
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_NEAREST)


def _nearest(error: UnicodeError) -> tuple[str | bytes, int]:
    """Of a character that a stream cannot encode: the byte that it stands for, its like in ASCII, or its number."""
    assert isinstance(error, UnicodeEncodeError)
    code = ord(character := error.object[error.start])
    if 0xDC80 <= code <= 0xDCFF:  # how Python holds a byte of a file name that is not UTF-8
        return bytes([code - 0xDC00]), error.start + 1
    plain = character.translate(_PLAIN)
    return plain if plain.isascii() else ascii(character)[1:-1], error.start + 1


def drop_stdout() -> None:
    """Nobody reads stdout any more: what it still holds, and what comes, goes nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    with contextlib.suppress(OSError, ValueError):  # ValueError: a stream without a descriptor
        os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


@contextlib.contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """What is printed on stdout inside goes to stderr, from libraries in C and child processes too."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        os.dup2(2, 1)
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
