"""Where recipes and export targets lie: the files that ship with dashdeploy, and the user's."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from dashdeploy.errors import UserError, nearest, shown, unknown

Kind = Literal["recipes", "exporters"]

_PACKAGE = Path(__file__).resolve().parent
_NOUNS: dict[str, str] = {"recipes": "recipe", "exporters": "export target"}
_SUFFIX = ".yaml"
NO_HOME = "/nonexistent"
"""The home of users without one, as Debian names it."""


def data_root(kind: Kind) -> Path:
    """The folder of the shipped files: `dashdeploy/_data/<kind>` of a wheel, or the checkout's `<kind>/`.

    Raises:
        UserError: neither exists: the installation is damaged.
    """
    candidates = (_PACKAGE / "_data" / kind, _PACKAGE.parent / kind)
    for folder in candidates:
        if folder.is_dir():
            return folder
    raise UserError(
        f"the {kind} that ship with dashdeploy are missing: looked for {' and '.join(map(str, candidates))}. "
        "Install dashdeploy again."
    )


def available(kind: Kind) -> dict[str, Path]:
    """Name (file name without `.yaml`) -> path, of the shipped files, sorted by name."""
    return {path.stem: path for path in sorted(data_root(kind).glob(f"*{_SUFFIX}"))}


def find(kind: Kind, name: str, *, folder: Path | None = None) -> Path:
    """The YAML file that `name` means; `.yaml` may be left out.

    A bare word (`digits`) always means a shipped file, whatever else lies in the folder. Anything with a folder or a
    suffix (`./digits`, `digits.yaml`) is first tried as a path, relative to `folder`; None: to the working folder.

    Raises:
        UserError: there is no such file or name; the message lists the names and gives the nearest.
    """
    path = (folder or Path()) / name
    if is_path(name):
        for literal in (path, path.with_name(path.name + _SUFFIX) if path.name else path):
            if os.path.isfile(literal):  # Path.is_file raises for a name that is too long
                return literal
    known = available(kind)
    stem = name.removesuffix(_SUFFIX)
    if stem not in known:
        raise _not_found(kind, name, path)
    return known[stem]


def _not_found(kind: Kind, name: str, path: Path) -> UserError:
    """The error for a name that is neither a file nor one that ships, by what it may have been meant as."""
    noun, known, called = _NOUNS[kind], available(kind), shown(name)
    other: Kind = "exporters" if kind == "recipes" else "recipes"
    if name and os.path.isdir(path):
        if os.path.isdir(path / "student") or os.path.isdir(path / "teacher"):
            return UserError(f"{called}: a run folder, not a {noun}. `dashdeploy show {called}` says what comes next.")
        return UserError(f"{called}: a folder, and a {noun} is a YAML file.")
    if name.removesuffix(_SUFFIX) in _names(other):
        names = ", ".join(sorted(known))
        return UserError(f"{called}: not a name of {kind}, but of {other}. Known {kind}: {names}.")
    if os.path.isfile(path) or os.path.isfile(f"{path}{_SUFFIX}"):
        file = name if os.path.isfile(path) else f"{name}{_SUFFIX}"
        return UserError(f"{called}: no {noun} of this name ships with dashdeploy. The file here is ./{shown(file)}.")
    if is_path(name) and nearest(name.removesuffix(_SUFFIX), known) is None:
        return UserError(f"{called}: no such file. Give a YAML file, or a name that `dashdeploy {kind} ls` lists.")
    return unknown(noun, name, known)


def _names(kind: Kind) -> list[str]:
    """The names that ship; none of a kind that is missing, where that is not what went wrong."""
    try:
        return list(available(kind))
    except UserError:
        return []


def exists(path: str | Path) -> bool:
    """Whether there is a file or folder of this name; not so for a name that no file system takes."""
    return os.path.exists(path)  # Path.exists raises for a name that is too long


def expanded(path: str | Path) -> Path:
    """A path with a leading ~ or ~user replaced by the home folder.

    Raises:
        UserError: that user has none.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"{path}: there is no home folder for ~ here. Give an absolute path.") from error


def is_path(name: str) -> bool:
    """Whether `name` may be a path, and not only the name of a shipped file."""
    return bool(Path(name).suffix) or len(Path(name).parts) > 1 or name.startswith(".")


def cache_folder() -> Path:
    """dashdeploy's folder in XDG_CACHE_HOME; in ~/.cache where that is unset or relative, which XDG says to ignore.

    Raises:
        UserError: it is, and this user has no home folder.
    """
    xdg = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if xdg.is_absolute():
        return xdg / "dashdeploy"
    home = os.path.expanduser("~")
    if home in ("~", NO_HOME):
        raise UserError("there is no home folder to keep downloads in: set XDG_CACHE_HOME to a folder.")
    return Path(home) / ".cache" / "dashdeploy"


def settle_home() -> None:
    """Give a user without a home folder the one that nobody has: libraries that ask for one fail without any."""
    if os.path.expanduser("~") == "~":
        os.environ["HOME"] = NO_HOME
