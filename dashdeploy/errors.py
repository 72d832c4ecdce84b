"""The one exception for a user's mistake, and the wording helpers that every message shares."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something that the user can put right: printed as one line, exit code 2.

    The message says what failed, what it got, what was expected and what to do.
    Anything else that is raised is a defect of ours: traceback, exit code 1.
    """


class Interrupted(Exception):
    """Work that a signal ended after its state was saved: printed as one line, exit code 130."""


def nearest(name: str, choices: Iterable[str]) -> str | None:
    """The choice that `name` was most likely meant to be, or None."""
    matches = difflib.get_close_matches(name, list(choices), n=1, cutoff=0.5)
    return matches[0] if matches else None


def unknown(kind: str, name: str, choices: Iterable[str]) -> UserError:
    """A UserError for a name that is not one of `choices`: lists them and names the nearest."""
    choices = sorted(choices)
    guess = nearest(name, choices)
    hint = f" Did you mean {guess!r}?" if guess else ""
    return UserError(f"unknown {kind} {name!r}.{hint} Known: {', '.join(choices)}.")
