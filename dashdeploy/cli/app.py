"""The command line's root: its commands, `--version`, and what each kind of failure looks like.

Nothing here or at the top of a command's file imports torch, numpy or the recipe schema: `--help` stays instant.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated

import typer

from dashdeploy import __version__, locate, terminal
from dashdeploy.cli import (
    adopt,
    bench,
    compare,
    diff,
    distill,
    doctor,
    export,
    exporters,
    keygen,
    ls,
    output,
    recipes,
    run,
    sample,
    show,
    teach,
    verify,
)
from dashdeploy.errors import Interrupted, UserError, fault, printable

# In the order of the work. Another command: import its module above and add one line here.
COMMANDS: dict[str, Callable[..., output.Result | None] | typer.Typer] = {
    "run": run.run,
    "teach": teach.teach,
    "distill": distill.distill,
    "export": export.export,
    "bench": bench.bench,
    "show": show.show,
    "ls": ls.ls,
    "diff": diff.diff,
    "compare": compare.compare,
    "sample": sample.sample,
    "verify": verify.verify,
    "keygen": keygen.keygen,
    "adopt": adopt.adopt,
    "recipes": recipes.app,
    "exporters": exporters.app,
    "doctor": doctor.doctor,
}

app = typer.Typer(name="dashdeploy", no_args_is_help=True, pretty_exceptions_enable=False)


def _print_version(asked: bool) -> None:
    if asked:
        print(f"dashdeploy {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Compress a class-conditional diffusion model and deploy it with its guidance intact.

    Results go to stdout (with --json as one JSON object), progress to stderr (with --quiet none).
    """
    try:
        os.getcwd()
    except FileNotFoundError as error:
        raise UserError("the folder that you are in has been deleted. Change to another one first.") from error


for _name, _command in COMMANDS.items():
    if isinstance(_command, typer.Typer):
        app.add_typer(_command, name=_name)
    else:
        app.command(_name)(_command)
output.share_options(app)


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line and exit.

    Exit codes: 0; 2 for a user's mistake and for what the machine refuses (a full disk, no permission, no memory),
    with one `error: …` on stderr; 130 after Ctrl-C; 1, with a traceback, for anything else.

    Args:
        args: what follows the program's name; None: of this process.
    """
    terminal.prepare_streams()
    terminal.plain_warnings()
    locate.settle_home()
    try:
        app(args)
    except Interrupted as stopped:
        terminal.tell(f"stopped: {printable(str(stopped))}")
        sys.exit(130)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        line = str(error) if isinstance(error, UserError) else fault(error)
        if line is None:
            raise
        terminal.tell(f"error: {printable(line)}")  # not by rich: it takes [brackets] for markup, wraps
        sys.exit(2)
