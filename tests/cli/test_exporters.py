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
    assert "onnx-cpu" in {row["name"] for row in json.loads(capsys.readouterr().out)["exporters"]}
    assert call("cp", "onnx-cpu", tmp_path) == 0
    copied = tmp_path / "onnx-cpu.yaml"
    assert call("validate", copied) == 0
    assert call("cp", "onnx-cpu", tmp_path / "mine.yaml") == 0
    assert "\nname: mine\n" in (tmp_path / "mine.yaml").read_text()
    copied.write_text(copied.read_text().replace("opset: 22", "opsett: 22"))
    assert call("validate", copied) == 2
    assert "opsett: unknown key; did you mean 'opset'?" in capsys.readouterr().err


def test_the_schema_of_targets_is_json_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("schema") == 0
    schema = json.loads(capsys.readouterr().out)
    assert {arm["$ref"] for arm in schema["anyOf"]} == {"#/$defs/Target", "#/$defs/Package"}
    assert "parity" in schema["$defs"]["Target"]["properties"]


def test_the_schema_of_an_artifact_s_manifest_holds_what_every_runtime_reads(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert call("schema", "--artifact") == 0
    schema = json.loads(capsys.readouterr().out)
    assert {"format", "files", "artifact", "figures"} <= set(schema["required"])
    assert schema["properties"]["format"] == {"maximum": 5, "minimum": 5, "title": "Format", "type": "integer"}
    read = {"host", "sampling", "graphs", "betas", "branches", "guidance_range", "grids"}
    assert read <= set(schema["$defs"]["Artifact"]["required"])


def test_ls_says_in_a_line_what_each_target_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("ls") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("onnx-cpu") and "ONNX Runtime on CPUs" in line]


def test_several_files_are_checked_and_every_problem_is_told(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "mine.yaml").write_text("name: mine\nopset: 1\n")
    assert call("validate", tmp_path / "mine.yaml", "onnx-cpu", "onnx-cup") == 2
    out, err = capsys.readouterr()
    assert out == "onnx-cpu: ok\n"
    assert "mine.yaml: 2 problems\n  line 1: description: required key is missing\n  line 2: opset: must be ≥ 18" in err
    assert "error: unknown export target 'onnx-cup'. Did you mean 'onnx-cpu'" in err


def test_help_speaks_of_targets(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ([], ["ls"], ["cp"], ["validate"], ["schema"]):
        assert call(*command, "--help") == 0
        said = capsys.readouterr().out
        assert "export target" in said
        assert "recipe" not in said


@pytest.mark.parametrize(("artifact", "told"), [("nosuch", "unknown export target"), ("triton", "so it is a package")])
def test_a_package_is_checked_with_the_artifact_that_it_carries(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, artifact: str, told: str
) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(f"name: p\ndescription: d\nartifact: {artifact}\npackage: {{kind: cpp}}\n")
    assert call("validate", file) == 2
    assert f"artifact '{artifact}': " in (err := capsys.readouterr().err) and told in err
