from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import typer

import dashdeploy
from dashdeploy.cli import app as root
from dashdeploy.errors import UserError

REPOSITORY = Path(dashdeploy.__file__).resolve().parents[1]
HEAVY = (
    "torch",
    "numpy",
    "onnx",
    "onnxruntime",
    "diffusers",
    "tensorrt",
    "yaml",
    "matplotlib",
    "dashdeploy.recipe.schema",
)


def run(*args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dashdeploy", *args]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60)


def exit_code(args: list[str]) -> int | str | None:
    with pytest.raises(SystemExit) as caught:
        root.main(args)
    return caught.value.code


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> list[BaseException]:
    """An app whose command `fail` raises the exception put into the returned list."""
    raised: list[BaseException] = []
    app = typer.Typer(pretty_exceptions_enable=False)

    @app.callback()
    def _root() -> None: ...

    @app.command()
    def fail() -> None:
        raise raised[0]

    monkeypatch.setattr(root, "app", app)
    return raised


@pytest.mark.parametrize("command", [(), *((name,) for name in root.COMMANDS), ("recipes", "validate")])
def test_help_imports_nothing_heavy(command: tuple[str, ...]) -> None:
    code = (
        "import sys\n"
        "from dashdeploy.cli.app import main\n"
        "try:\n"
        f"    main({[*command, '--help']!r})\n"
        "except SystemExit as end:\n"
        f"    print('IMPORTED', end.code, [name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert result.stdout.splitlines()[-1] == "IMPORTED 0 []", result.stdout + result.stderr


def test_without_a_command_the_help_is_printed() -> None:
    result = run()
    assert "Usage:" in result.stdout + result.stderr
    assert all(name in result.stdout + result.stderr for name in root.COMMANDS)


def test_version() -> None:
    result = run("--version")
    assert (result.returncode, result.stdout) == (0, f"dashdeploy {dashdeploy.__version__}\n")


def test_a_mistake_is_one_error_on_stderr_and_exit_code_2() -> None:
    result = run("recipes", "cp", "no-such-recipe")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("error: unknown recipe 'no-such-recipe'")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("args", [["no-such-command"], ["--no-such-option"], ["recipes", "cp"]])
def test_a_wrong_call_exits_with_2(args: list[str]) -> None:
    assert exit_code(args) == 2


def test_error_text_is_printed_as_it_is(failing: list[BaseException], capsys: pytest.CaptureFixture[str]) -> None:
    message = "pip install 'dashdeploy[cpu]' [bold]not markup[/bold] " + "long " * 50 + "\n  line 2: got [1, 2]"
    failing.append(UserError(message))
    assert exit_code(["fail"]) == 2
    assert capsys.readouterr() == ("", f"error: {message}\n")


def test_an_interrupt_exits_with_130(failing: list[BaseException]) -> None:
    failing.append(KeyboardInterrupt())
    assert exit_code(["fail"]) == 130


def test_a_defect_is_not_dressed_up(failing: list[BaseException]) -> None:
    failing.append(ZeroDivisionError("ours"))
    with pytest.raises(ZeroDivisionError, match="ours"):
        root.main(["fail"])


def test_a_defect_prints_a_plain_traceback_and_exits_with_1() -> None:
    code = (
        "import dashdeploy.locate as locate\n"
        "locate.available = lambda kind: 1 / 0\n"
        "from dashdeploy.cli.app import main\n"
        "main(['recipes', 'ls'])\n"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    assert result.stderr.startswith("Traceback (most recent call last)")
    assert result.stderr.endswith("ZeroDivisionError: division by zero\n")
