"""`dashdeploy diff A B` as a user types it."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from dashdeploy import stages
from dashdeploy.cli.app import main

CONFTEST = Path(__file__).resolve().parents[1] / "bench" / "conftest.py"


def call(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of a command run in this process."""
    with pytest.raises(SystemExit) as stopped:
        main([str(a) for a in arguments])
    out, err = capsys.readouterr()
    return int(stopped.value.code or 0), out, err


@pytest.fixture
def payload() -> dict[str, Any]:
    spec = importlib.util.spec_from_file_location("bench_conftest", CONFTEST)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    content: dict[str, Any] = module._payload()
    return content


@pytest.fixture
def first(payload: dict[str, Any], tmp_path: Path) -> Path:
    """A run folder with a record."""
    (tmp_path / "one" / "bench").mkdir(parents=True)
    (tmp_path / "one" / "bench" / "bench.json").write_text(json.dumps(payload))
    return tmp_path / "one"


def second(payload: dict[str, Any], tmp_path: Path) -> Path:
    path = tmp_path / "two.json"
    path.write_text(json.dumps(payload))
    return path


def test_0_where_nothing_is_past_a_limit(
    capsys: pytest.CaptureFixture[str], first: Path, payload: dict[str, Any], tmp_path: Path
) -> None:
    code, out, err = call(capsys, "diff", first, second(payload, tmp_path))
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == "no regression past a limit"
    assert "student-onnx-cpu" in out and "…" not in out


def test_1_and_the_regressions_named_where_one_is(
    capsys: pytest.CaptureFixture[str], first: Path, payload: dict[str, Any], tmp_path: Path
) -> None:
    row = payload["latency"][-1]
    row |= {k: v * 1.25 for k, v in row.items() if k.endswith("_ms") and v}
    other = second(payload, tmp_path)
    code, out, err = call(capsys, "diff", first, other)
    assert (code, err) == (1, "")
    assert out.splitlines()[-1].startswith("1 regression past a limit: p50 (ms), student-onnx-cpu, 50 steps, batch 64")
    assert call(capsys, "diff", first, other, "--max-slowdown", "1.3")[0] == 0
    assert call(capsys, "diff", other, first)[0] == 0


def test_2_for_a_record_that_was_changed_since_it_was_measured(
    capsys: pytest.CaptureFixture[str], first: Path, payload: dict[str, Any], tmp_path: Path, tiny_recipe
) -> None:
    folder = tmp_path / "run" / "bench"
    with (
        stages.exclusive(folder) as work,
        stages.write_stage(folder, work, key="k", recipe=tiny_recipe, inputs={}) as draft,
    ):
        (draft.folder / "bench.json").write_text(json.dumps(payload))
    code, out, _ = call(capsys, "diff", first, folder)
    assert code == 0 and f"{first}: no manifest lies beside it" in out and f"{folder}: no manifest" not in out
    row = payload["latency"][-1]
    row |= {k: v * 0.5 for k, v in row.items() if k.endswith("_ms") and v}
    (folder / "bench.json").write_text(json.dumps(payload))
    for name in (folder.parent, folder, folder / "bench.json"):
        code, out, err = call(capsys, "diff", first, name)
        assert (code, out) == (2, "") and "bench.json: damaged or changed since it was made" in err


def test_1_with_json_too(
    capsys: pytest.CaptureFixture[str], first: Path, payload: dict[str, Any], tmp_path: Path
) -> None:
    payload["fidelity"]["rows"][1]["overall"]["relative_error"] += 0.5
    code, out, _ = call(capsys, "diff", "--json", first, second(payload, tmp_path))
    content = json.loads(out)
    assert code == 1 and content["regressions"] == 1
    (one,) = [c for c in content["changes"] if c["regression"]]
    assert (one["figure"], one["change"]) == ("relative error", pytest.approx(0.5))


def test_2_and_one_line_where_they_cannot_be_compared(
    capsys: pytest.CaptureFixture[str], first: Path, payload: dict[str, Any], tmp_path: Path
) -> None:
    payload["quality"]["num_images"] = 7
    code, out, err = call(capsys, "diff", first, second(payload, tmp_path))
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and err.count("\n") == 1 and "number of images (1000 and 7)" in err


@pytest.mark.parametrize("arguments", [["--max-slowdown", "nan"], ["--max-fid-increase", "-1"]])
def test_2_for_a_limit_that_is_none(capsys: pytest.CaptureFixture[str], first: Path, arguments: list[str]) -> None:
    code, out, err = call(capsys, "diff", first, first, *arguments)
    assert (code, out) == (2, "") and arguments[0] in err


def test_2_for_a_record_that_is_not_there(capsys: pytest.CaptureFixture[str], first: Path, tmp_path: Path) -> None:
    assert (
        call(capsys, "diff", first, tmp_path / "none")[2]
        == f"error: {tmp_path / 'none'}: no such file or folder. Give a bench.json, a bench folder or a run folder.\n"
    )


def test_another_machine_is_a_note(
    capsys: pytest.CaptureFixture[str], first: Path, payload: dict[str, Any], tmp_path: Path
) -> None:
    payload["machine"]["cpu"] = "another"
    code, out, _ = call(capsys, "diff", first, second(payload, tmp_path))
    assert code == 0 and "Measured on another machine" in out and "p50" not in out


def test_help_explains_the_limits_and_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "diff", "--help")
    assert code == 0 and "--max-slowdown" in out and "--only-beyond" in out and "Exit code 2" in out


def test_a_run_folder_that_is_called_diff_is_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = call(capsys, "bench", "diff")
    assert (code, out) == (2, "") and err == "error: diff: no such run folder. `dashdeploy ls` lists the runs.\n"


def test_a_benchmark_without_its_run_folder_says_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call(capsys, "bench")
    assert code == 2 and "Missing argument" in err and "bench [OPTIONS] {RUN}" in err
