from __future__ import annotations

import json
from pathlib import Path

import pytest

from dashdeploy.cli.app import main


def call(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as stopped:
        main(["exporters", *map(str, arguments)])
    return int(stopped.value.code or 0)


def test_targets_are_listed_copied_and_checked(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert call("ls", "--json") == 0
    assert "onnx-cpu" in {row["name"] for row in json.loads(capsys.readouterr().out)}
    assert call("cp", "onnx-cpu", tmp_path) == 0
    copied = tmp_path / "onnx-cpu.yaml"
    assert call("validate", copied) == 0
    copied.write_text(copied.read_text().replace("opset: 22", "opsett: 22"))
    assert call("validate", copied) == 2
    assert "opsett: unknown key; did you mean 'opset'?" in capsys.readouterr().err


def test_the_schema_of_targets_is_json_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("schema") == 0
    assert "parity" in json.loads(capsys.readouterr().out)["properties"]
