"""A library that crashes, hangs, prints or says nothing is a row; the real parts of this machine are row."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from dashdeploy.cli.app import main
from dashdeploy.doctor import probes
from dashdeploy.doctor.examine import backends, examine, healthy
from dashdeploy.doctor.probes import Row

SCRIPT = """
import sys
from pathlib import Path
from dashdeploy.doctor import probes
from dashdeploy.doctor.probes import Row

def planted(module):
{body}

probes.PROBES["planted"] = probes.Probe("Planted", planted)
probes.main(sys.argv[1], Path(sys.argv[2]))
"""


@pytest.fixture
def row_of(tmp_path: Path):
    """The row of a probe with this body."""

    def run(body: str, timeout_s: float = 30.0) -> Row:
        script = tmp_path / "child.py"
        script.write_text(SCRIPT.format(body=textwrap.indent(textwrap.dedent(body).strip(), "    ")))
        return examine(["planted"], timeout_s=timeout_s, child=(sys.executable, str(script)))["planted"]

    return run


def test_a_crash_is_a_row_with_its_signal(row_of) -> None:
    row = row_of("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    assert (row.status, row.detail) == ("broken", "crashed: signal 11 (SIGSEGV)")


def test_a_crash_at_the_end_after_an_answer_is_told_with_it(row_of) -> None:
    row = row_of(
        """
        import atexit, os, signal
        atexit.register(lambda: os.kill(os.getpid(), signal.SIGABRT))
        return Row("ok", "1.0", "works")
        """
    )
    assert (row.status, row.version) == ("broken", "1.0")
    assert row.detail == "works; but crashed: signal 6 (SIGABRT)"


def test_a_hang_is_ended(row_of) -> None:
    assert "did not answer within 1.5 s" in row_of("import time; time.sleep(600)", 1.5).detail


def test_what_a_library_prints_does_not_matter(row_of) -> None:
    assert row_of("print('garbage {'); return Row('ok', '2', 'fine')") == Row("ok", "2", "fine")


def test_an_end_without_an_answer_is_broken(row_of) -> None:
    assert row_of("import os; os._exit(0)").detail == "ended without an answer"


def test_an_exception_is_told(row_of) -> None:
    assert row_of("raise RuntimeError('the cable is out')").detail == "failed: RuntimeError: the cable is out"


def test_a_missing_part_names_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.setattr(probes, "version", lambda package: "")
    row = probes.run("openvino")
    assert (row.status, row.fix) == ("missing", "pip install 'dashdeploy[openvino]'")


def test_a_required_part_that_is_missing_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    assert probes.run("diffusers").status == "broken"


def test_both_onnxruntimes_at_once_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "version", lambda package: "1.0")
    row = probes.run("onnxruntime")
    assert row.status == "broken" and "overwrite each other" in row.detail


def test_a_listed_provider_that_does_not_load_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    both = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: both)
    monkeypatch.setattr(probes, "version", lambda package: "1.0" if package == "onnxruntime-gpu" else "")
    row = probes.run("onnxruntime")
    assert row.status == "broken" and row.detail.endswith("CPUExecutionProvider: runs")
    assert "onnxruntime-gpu[cuda,cudnn]" in row.fix


def test_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "--json"])
    rows = {row["probe"]: row for row in json.loads(capsys.readouterr().out)["parts"]}
    assert ended.value.code == (1 if any(row["status"] == "broken" for row in rows.values()) else 0)
    for name in ("python", "torch", "diffusers", "onnx", "onnxruntime", "openvino", "tensorrt_rtx"):
        assert rows[name]["status"] == "ok", rows[name]
    assert "CPUExecutionProvider: runs" in rows["onnxruntime"]["detail"]


def test_backends_and_health_follow_from_the_rows() -> None:
    good = {name: Row("ok") for name in ("onnxruntime", "tensorrt_rtx")}
    assert backends(good) == {"export": ["onnxruntime", "tensorrt_rtx"], "run": ["onnxruntime"]}
    assert backends({**good, "gpu": Row("ok")})["run"] == ["onnxruntime", "tensorrt_rtx"]
    assert healthy({**good, "tensorrt": Row("missing")})
    assert not healthy({**good, "tensorrt": Row("broken")})
    assert not healthy({"onnxruntime": Row("missing")})


def test_help_is_instant_and_loads_nothing() -> None:
    code = (
        "import sys; from dashdeploy.cli.app import main\ntry: main(['doctor', '--help'])\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'tensorrt_rtx', 'numpy'} & set(sys.modules); assert not heavy, heavy"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
