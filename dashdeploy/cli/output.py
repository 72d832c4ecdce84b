"""What every command shares: `--json` and `--quiet`, and its result printed for a reader or for a program.

A command returns a `Result`, or None if it has none; `sharing_options` gives it the options and prints what it returns.
"""

from __future__ import annotations

import functools
import inspect
import json
import math
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from dashdeploy import terminal
from dashdeploy.errors import Interrupted

NOT_READ = 141
"""Exit code where nobody reads stdout to its end: of a program that the signal of this ends, 128 + SIGPIPE."""
AS_JSON = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object, and nothing else.")]
QUIET = Annotated[bool, typer.Option("--quiet", "-q", help="No progress: only warnings, errors and the result.")]


@dataclass(frozen=True)
class Result:
    """What a command found or made.

    Attributes:
        data: for `--json`: names and values that JSON can hold, or paths; a number that is not finite becomes null.
        show: prints it on stdout for a reader.
        code: the exit code.
    """

    data: Mapping[str, Any]
    show: Callable[[], None]
    code: int = 0


def lines(data: Mapping[str, Any], *shown: object, code: int = 0) -> Result:
    """A result that a reader sees as these lines."""
    return Result(data, lambda: print(*shown, sep="\n") if shown else None, code)


def sharing_options(command: Callable[..., Result | None]) -> Callable[..., None]:
    """The command with the options `--json` and `--quiet`, which prints its result as they say."""
    hints = get_type_hints(command, include_extras=True)
    hints.pop("return", None)
    parameters = [p.replace(annotation=hints[p.name]) for p in inspect.signature(command).parameters.values()]
    shared = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=annotation)
        for name, annotation in (("as_json", AS_JSON), ("quiet", QUIET))
    ]

    @functools.wraps(command)
    def run(*arguments: Any, as_json: bool, quiet: bool, **options: Any) -> None:
        terminal.set_quiet(quiet)
        try:
            with terminal.stdout_to_stderr() if as_json else nullcontext():
                result = command(*arguments, **options)
        except KeyboardInterrupt:
            raise Interrupted("by Ctrl-C") from None
        if result is None:
            return
        if terminal.first_process():
            _print(result, as_json=as_json)
        if result.code:
            raise typer.Exit(result.code)

    run.__signature__ = inspect.Signature([*parameters, *shared])  # type: ignore[attr-defined]
    run.__annotations__ = {**hints, "as_json": AS_JSON, "quiet": QUIET}
    return run


def _print(result: Result, *, as_json: bool) -> None:
    try:
        if as_json:
            print(json.dumps(plain(result.data), indent=2, allow_nan=False))
        else:
            result.show()
        sys.stdout.flush()
    except BrokenPipeError:  # as in `dashdeploy ls | head`
        terminal.drop_stdout()
        raise typer.Exit(NOT_READ) from None


def share_options(app: typer.Typer) -> None:
    """`sharing_options` for all commands of an app and of the apps within it."""
    for command in app.registered_commands:
        if command.callback is not None:
            command.callback = sharing_options(command.callback)
    for group in app.registered_groups:
        if group.typer_instance is not None:
            share_options(group.typer_instance)


def plain(value: Any) -> Any:
    """A value as JSON can hold it: paths as text, null for a number that is not finite."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [plain(item) for item in value]
    return value
