"""The exception for a user's mistake, and how its messages name the known choices."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


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
