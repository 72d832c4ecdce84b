"""What all commands share: --json, --quiet, and a result that is printed once."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import pytest
import typer

from dashdeploy import terminal
from dashdeploy.cli import app as root
from dashdeploy.cli.output import Result, lines, plain, share_options


@pytest.fixture(autouse=True)
def _talks_again() -> Iterator[None]:
    yield
    terminal.set_quiet(False)


def commands(group: typer.Typer, *before: str) -> Iterator[tuple[str, ...]]:
    for command in group.registered_commands:
        yield (*before, command.name or "")
    for inner in group.registered_groups:
        assert inner.typer_instance is not None
        yield from commands(inner.typer_instance, *before, inner.name or "")


ALL = list(commands(root.app))


def test_the_commands_are_found() -> None:
    assert len(ALL) >= 20
    assert {("run",), ("recipes", "ls"), ("exporters", "schema"), ("show",)} <= set(ALL)


@pytest.mark.parametrize("command", ALL, ids=" ".join)
def test_every_command_takes_json_and_quiet(command: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        root.main([*command, "--help"])
    said = capsys.readouterr().out
    assert not ended.value.code
    assert "--json" in said and "--quiet" in said and "-q" in said


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> typer.Typer:
    """An app whose command `weigh` talks on all ways and returns a result."""
    app = typer.Typer(pretty_exceptions_enable=False)

    @app.callback()
    def _root() -> None: ...

    @app.command()
    def weigh(thing: Annotated[str, typer.Argument()], *, code: int = 0) -> Result:
        terminal.say("on the scales")
        terminal.warn("they are old")
        print("a library's own words")
        os.write(1, b"and words from C\n")
        return lines({"thing": thing, "grams": math.nan, "file": Path("a/b")}, f"{thing}: unknown", code=code)

    @app.command()
    def nothing() -> None: ...

    share_options(app)
    monkeypatch.setattr(root, "app", app)
    return app


def called(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        root.main(list(arguments))
    return int(ended.value.code or 0), *capfd.readouterr()


@pytest.mark.usefixtures("small")
def test_json_is_one_object_and_all_else_goes_to_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    code, out, err = called(capfd, "weigh", "ink", "--json")
    assert code == 0
    assert json.loads(out) == {"thing": "ink", "grams": None, "file": "a/b"}
    assert set(err.splitlines()) == {
        "on the scales",
        "warning: they are old",
        "a library's own words",
        "and words from C",
    }


@pytest.mark.usefixtures("small")
def test_quiet_leaves_warnings_and_the_result(capfd: pytest.CaptureFixture[str]) -> None:
    code, out, err = called(capfd, "weigh", "ink", "-q", "--code", "3")
    assert (code, err) == (3, "warning: they are old\n")
    assert out.splitlines()[-1] == "ink: unknown"


@pytest.mark.usefixtures("small")
def test_of_several_processes_the_first_prints(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    assert "ink: unknown" in called(capfd, "weigh", "ink")[1]  # a cluster's variable, and no launcher's
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, out, err = called(capfd, "weigh", "ink", "--code", "3")
    assert code == 3 and "unknown" not in out and err == ""


@pytest.mark.usefixtures("small")
def test_a_command_without_a_result_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    assert called(capfd, "nothing", "--json") == (0, "", "")


def test_a_mistake_with_json_leaves_stdout_empty(capfd: pytest.CaptureFixture[str]) -> None:
    code, out, err = called(capfd, "show", "no-such-thing", "--json")
    assert (code, out) == (2, "") and err.startswith("error: no-such-thing: ")


def test_values_that_json_cannot_hold() -> None:
    values = {"a": (1, Path("x")), 2: {"b": math.inf}, "c": "text", "d": [None, True, 1.5]}
    assert plain(values) == {"a": [1, "x"], "2": {"b": None}, "c": "text", "d": [None, True, 1.5]}


@pytest.mark.parametrize(
    "arguments",
    [
        ("recipes", "ls"),
        ("recipes", "validate", "digits"),
        ("recipes", "schema"),
        ("exporters", "ls"),
        ("exporters", "schema", "--artifact"),
        ("run", "digits", "--dry-run"),
        ("show", "recipes/teachers/digits"),
    ],
    ids=" ".join,
)
def test_json_of_commands_that_need_no_run(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(Path(root.__file__).resolve().parents[2])
        with pytest.raises(SystemExit) as ended:
            root.main([*arguments, "--json"])
    out, err = capsys.readouterr()
    assert not ended.value.code, err
    assert isinstance(json.loads(out), dict)
    assert err == ""


def test_a_lone_surrogate_in_a_name_is_json_all_the_same(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"n\xffme") / "student").mkdir(parents=True)
    command = [sys.executable, "-m", "dashdeploy", "ls", str(tmp_path), "--json"]
    done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"runs": []}
