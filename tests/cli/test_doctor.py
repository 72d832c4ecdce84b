"""`dashdeploy doctor` as a user calls it: its rows, its exit codes, and its two closing lines."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import dashdeploy
from dashdeploy.cli.app import main
from dashdeploy.doctor import examine as module
from dashdeploy.doctor.probes import Row

REPOSITORY = Path(dashdeploy.__file__).resolve().parents[1]
GOOD = {"python": Row("ok", "3.12"), "onnxruntime": Row("ok", "1.0", "runs")}


def called(monkeypatch: pytest.MonkeyPatch, rows: dict[str, Row], *args: str) -> int:
    monkeypatch.setattr(module, "examine", lambda: rows)
    with pytest.raises(SystemExit) as ended:
        main(["doctor", *args])
    return int(ended.value.code or 0)


def test_json_of_this_machine() -> None:
    command = [sys.executable, "-m", "dashdeploy", "doctor", "--json"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    found = json.loads(done.stdout)
    rows = found["parts"]
    assert {"parts", "export", "run"} == set(found)
    assert all({"probe", "name", "status", "version", "detail", "fix"} == set(row) for row in rows)
    by_probe = {row["probe"]: row for row in rows}
    assert by_probe["python"]["status"] == "ok" and by_probe["torch"]["status"] == "ok"
    assert done.returncode == (1 if any(row["status"] == "broken" for row in rows) else 0), done.stderr


@pytest.mark.parametrize(
    ("row", "code"),
    [
        (Row("missing", fix="pip install x"), 0),
        (Row("info"), 0),
        (Row("broken", "11.0", "crashed: signal 11 (SIGSEGV)"), 1),
    ],
)
def test_exit_code(row: Row, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert called(monkeypatch, {**GOOD, "tensorrt": row}) == code


def test_without_a_runtime_the_exit_code_is_1(monkeypatch: pytest.MonkeyPatch) -> None:
    assert called(monkeypatch, {"onnxruntime": Row("missing")}) == 1


def test_a_command_is_printed_with_its_brackets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = {**GOOD, "openvino": Row("missing", fix="pip install 'dashdeploy[openvino]'")}
    assert called(monkeypatch, rows) == 0
    printed = capsys.readouterr().out
    assert "dashdeploy[openvino]" in "".join(printed.split())
    assert "exports for: onnxruntime\n" in printed and "runs here:   onnxruntime\n" in printed
