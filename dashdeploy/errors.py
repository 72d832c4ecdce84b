"""The exceptions that a user sees as one line, and how failures of the machine and of damaged files become such lines.

A block that reads one file stands in `reading`, and one that writes in `writing`: they add the file's name where the
exception does not know it. `fault` is the one place that says what an exception of the system means.
"""

from __future__ import annotations

import difflib
import errno
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class UserError(Exception):
    """A mistake that the user can correct: printed as one line, exit code 2.

    The message says what failed, what was given, what was expected and what to do.
    Any other exception is a defect of dashdeploy: traceback, exit code 1.
    """


class Interrupted(Exception):
    """A signal ended the work after its state was saved: printed as one line, exit code 130."""


def nearest(name: str, choices: Iterable[str]) -> str | None:
    """The choice most like `name`, or None where none is like it."""
    matches = difflib.get_close_matches(name, list(choices), n=1, cutoff=0.5)
    return matches[0] if matches else None


def unknown(kind: str, name: str, choices: Iterable[str]) -> UserError:
    """A UserError for a name that is not one of `choices`: lists them and names the nearest."""
    choices = sorted(choices)
    guess = nearest(name, choices)
    hint = f" Did you mean {guess!r}?" if guess else ""
    return UserError(f"unknown {kind} {name!r}.{hint} Known: {', '.join(choices)}.")


def shown(path: str | os.PathLike[str]) -> str:
    """A path as messages show it: as it is, or quoted and escaped where a terminal could not print it."""
    text = os.fspath(path)
    return text if text.isprintable() else repr(text)


FULL = "the disk is full. Free some space, or write to another disk."
MEMORY = "not enough memory. Make the batch, the images or the network smaller, or end other programs."
DAMAGED_DISK = "the disk or network drive failed. Check it (dmesg), or use another one."
MEANINGS: dict[int, str] = {
    errno.ENOSPC: FULL,
    errno.EDQUOT: "your disk quota is used up. Free some space, or write to another disk.",
    errno.EFBIG: "the file system or a limit of this shell (ulimit -f) allows no file of this size.",
    errno.EACCES: "permission denied. Change its permissions or its owner, or choose another path.",
    errno.EPERM: "the system does not permit it. Change its permissions or its owner, or choose another path.",
    errno.EROFS: "the file system is read-only. Choose another path.",
    errno.ENOENT: "no such file or folder. Check the path.",
    errno.EEXIST: "is there already. Choose another path, or remove it.",
    errno.EISDIR: "is a folder, and a file is needed. Give a file.",
    errno.ENOTDIR: "a part of the path is a file and no folder. Check the path.",
    errno.ENOTEMPTY: "the folder is not empty. Choose another path, or empty it.",
    errno.ENAMETOOLONG: "the name is too long for the file system. Choose a shorter one.",
    errno.ELOOP: "its links lead in a circle. Mend the links.",
    errno.EMFILE: "too many open files. Raise the limit (ulimit -n), or use fewer threads.",
    errno.ENFILE: "the whole system has too many open files. End other programs.",
    errno.EIO: DAMAGED_DISK,
    errno.ESTALE: DAMAGED_DISK,
    errno.EREMOTEIO: DAMAGED_DISK,
    errno.ETXTBSY: "a running program uses it. End the program first.",
    errno.EBUSY: "something else uses it. End that first.",
    errno.EXDEV: "lies on another file system than its partner. Choose a path on the same one.",
    errno.EINVAL: "the file system does not accept this name or operation. Choose another path.",
    errno.ENOMEM: MEMORY,
    errno.EAGAIN: "the system has no more processes or threads to give. Use fewer threads, or end other programs.",
}
"""errno -> what it means and what to do."""

_OUT_OF_MEMORY = re.compile(
    r"DefaultCPUAllocator|can't allocate memory|Cannot allocate memory|out of memory|bad_alloc|bad allocation"
    r"|Failed to allocate memory"
)
_NOT_WRITTEN = re.compile(r"PytorchStreamWriter|file write failed|unexpected pos \d+ vs \d+|iostream error")
_SYSTEM_ERROR = re.compile(r"\(os error (\d+)\)|: (?:Cannot allocate memory|[A-Z][a-z ]+) \((\d+)\)$")


def fault(error: BaseException, *, path: str | os.PathLike[str] | None = None) -> str | None:
    """What a failure of the machine means, in one line; None: not one, but a defect.

    Known are OSError by its number, MemoryError, and the text of what torch, safetensors and ONNX Runtime raise in
    their place.

    Args:
        path: the file that the work was on, where the exception does not name one. None: not known.
    """
    if isinstance(error, MemoryError):
        return _line(path, _with_detail(MEMORY, error))
    if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
        name = error.filename if error.filename is not None else path
        meaning = MEANINGS.get(error.errno or 0)
        if meaning is None:
            meaning = f"{error.strerror or _one_line(error)}."
        return _line(os.fsdecode(name) if isinstance(name, str | bytes | os.PathLike) else path, meaning)
    if isinstance(error, ValueError) and "embedded null" in str(error):
        return _line(path, "a name has a NUL character, which no file system takes. Choose another name.")
    kind, text = type(error).__name__, str(error)
    foreign = kind == "SafetensorError" or type(error).__module__.startswith(("onnxruntime", "openvino"))
    if not (foreign or isinstance(error, RuntimeError)):
        return None
    if kind == "OutOfMemoryError" or _OUT_OF_MEMORY.search(text):
        return _line(path, _with_detail(MEMORY, error))
    if found := _SYSTEM_ERROR.search(text):
        number = int(found[1] or found[2])
        return _line(path, MEANINGS.get(number, f"{os.strerror(number)}."))
    if _NOT_WRITTEN.search(text):
        return _line(path, f"could not be written: {FULL}")
    if text.startswith("Symlink loop"):  # pathlib's; the text names the path
        return _line(path, MEANINGS[errno.ELOOP]) if path else f"{text}: {MEANINGS[errno.ELOOP]}"
    if "can't start new thread" in text or "Invalid thread pool" in text:  # Python's, torch's
        return _line(path, MEANINGS[errno.EAGAIN])
    return None


@contextmanager
def reading(
    path: str | os.PathLike[str], what: str, *, again: str = "Copy it again, or make it again."
) -> Iterator[None]:
    """For a block that reads and decodes one file and does nothing else: all that it raises is about that file.

    Args:
        what: what the file should be, as in "safetensors file".
        again: what to do about a damaged one.

    Raises:
        UserError: the block failed; one line that names the file.
    """
    try:
        yield
    except (UserError, Interrupted):
        raise
    except Exception as error:
        of_content = isinstance(error, OSError) and error.errno not in MEANINGS  # as gzip's and Pillow's
        line = None if of_content else fault(error, path=path)
        raise UserError(line or f"{shown(path)}: not a whole {what} ({_one_line(error)}). {again}") from error


@contextmanager
def writing(path: str | os.PathLike[str], *, named: bool = False) -> Iterator[None]:
    """For a block that writes one file or folder: what the machine refuses is told in terms of it.

    Args:
        named: say `path` also where the exception names a file, which is then a draft of it.

    Raises:
        UserError: the disk is full, read-only, …; one line that names the path.
    """
    try:
        yield
    except Exception as error:
        if named and isinstance(error, OSError):
            error.filename = None
        line = None if isinstance(error, UserError | Interrupted) else fault(error, path=None if named else path)
        if named and line is not None:
            line = f"{shown(path)}: cannot be written: {line}"
        if line is None:
            raise
        raise UserError(line) from error


@contextmanager
def telling_the_user() -> Iterator[None]:
    """For calls of dashdeploy/checked.py, whose ValueErrors are one line for a user already.

    Raises:
        UserError: the same line.
    """
    try:
        yield
    except ValueError as error:
        raise UserError(str(error)) from error


def printable(message: str) -> str:
    """A message with what would steer a terminal, or cannot be encoded, escaped.

    A line break stays if two spaces follow: so messages list several problems. Any other is part of a name.
    """
    parts = re.split(r"(\n(?=  ))", message)
    return "".join(part if part == "\n" else _escaped(part) for part in parts)


def _escaped(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _line(path: str | os.PathLike[str] | None, meaning: str) -> str:
    return meaning if path is None else f"{shown(path)}: {meaning}"


def _with_detail(meaning: str, error: BaseException) -> str:
    """The meaning with what was asked for, where the exception says it."""
    asked = re.search(r"(?:allocate|Unable to allocate) ([\d.,]+ ?\w*)", str(error))
    return f"{meaning.rstrip('.')} ({asked[1]} asked for)." if asked else meaning


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return printable(text if len(text) <= 200 else f"{text[:199]}…") or type(error).__name__
