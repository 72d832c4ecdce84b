"""What a probe says of a part that is half there, and of what that means for the deployment backends."""

from __future__ import annotations

import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest

from dashdeploy import cuda
from dashdeploy.doctor import probes
from dashdeploy.doctor.examine import backends, healthy
from dashdeploy.doctor.probes import Row

NO_GPU = cuda.Driver(installed=False, problem="no driver")


def ok(*names: str) -> dict[str, Row]:
    return {name: Row("ok") for name in names}


def test_an_installed_part_without_its_own_files_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "openvino").mkdir()
    (tmp_path / "openvino" / "__init__.py").write_text("import openvino._pyopenvino\n")
    for name in [name for name in sys.modules if name.split(".")[0] == "openvino"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(probes, "version", lambda package: "2026.1")
    row = probes.run("openvino")
    monkeypatch.delitem(sys.modules, "openvino", raising=False)
    assert (row.status, row.version) == ("broken", "2026.1")
    assert "openvino._pyopenvino" in row.detail
    assert row.fix == "pip install --force-reinstall openvino==2026.1"


def test_onnxruntime_is_tried_without_onnx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert probes.run("onnxruntime").status == "ok"


def test_the_graph_that_is_tried_is_a_valid_onnx_file() -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load_from_string(probes.IDENTITY)
    onnx.checker.check_model(model)
    assert [node.op_type for node in model.graph.node] == ["Identity"]


def test_a_provider_names_the_library_that_it_lacks(tmp_path: Path) -> None:
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("needs g++")
    (tmp_path / "capi").mkdir()
    source, needed = tmp_path / "e.cpp", tmp_path / "libcublasLt.so.12"
    source.write_text("")
    provider = tmp_path / "capi" / "libonnxruntime_providers_cuda.so"
    shared = [compiler, "-shared", "-fPIC", str(source)]
    subprocess.run([*shared, "-Wl,-soname,libcublasLt.so.12", "-o", str(needed)], check=True)
    subprocess.run([*shared, "-Wl,--no-as-needed", str(needed), "-o", str(provider)], check=True)
    needed.unlink()
    session = types.SimpleNamespace(get_providers=lambda: ["CPUExecutionProvider"])  # what a failed CUDA falls back to
    module = types.SimpleNamespace(
        __file__=str(tmp_path / "__init__.py"),
        SessionOptions=types.SimpleNamespace,
        InferenceSession=lambda graph, options, providers: session,
    )
    why = probes._provider_fails(module, "CUDAExecutionProvider")
    assert why.startswith("fails: libcublasLt.so.12: cannot open shared object file")


def test_tensorrt_without_a_gpu_is_told_and_makes_no_object(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = types.ModuleType("tensorrt")
    fake.__version__ = "11.0"  # type: ignore[attr-defined]  # without a Builder: to make one is an error here
    monkeypatch.setitem(sys.modules, "tensorrt", fake)
    monkeypatch.setattr(cuda, "look", lambda: NO_GPU)
    row = probes.run("tensorrt")
    assert (row.status, row.version) == ("info", "11.0")
    assert "pip install" not in row.fix and "--to rtx" in row.fix
    assert healthy({**ok("onnxruntime"), "tensorrt": row})


@pytest.mark.parametrize(
    ("probe", "module", "command"),
    [
        ("tensorrt", "tensorrt", "pip install 'dashdeploy[tensorrt]'"),
        ("tensorrt_rtx", "tensorrt_rtx", "pip install 'dashdeploy[rtx]'"),
        ("polygraphy", "polygraphy", "pip install 'dashdeploy[rtx]'"),
        ("nncf", "nncf", "pip install 'dashdeploy[openvino]'"),
        ("onnxruntime", "onnxruntime", "pip install 'dashdeploy[cpu]'"),
    ],
)
def test_a_missing_part_names_a_command_that_can_be_pasted(
    probe: str, module: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(probes, "version", lambda package: "")
    row = probes.run(probe)
    assert (row.status, row.detail, row.fix) == ("missing", "not installed", command)


def test_no_engine_is_built_without_polygraphy_and_nothing_without_onnx() -> None:
    rows = ok("onnxruntime", "openvino", "tensorrt_rtx", "gpu", "torch_cuda")
    no_polygraphy = {**rows, "polygraphy": Row("missing")}
    assert backends(no_polygraphy)["export"] == ["onnxruntime", "openvino"]
    assert backends(no_polygraphy)["run"] == ["onnxruntime", "openvino", "tensorrt_rtx"]
    assert backends({**rows, "onnx": Row("broken")})["export"] == []


def test_engines_do_not_run_through_a_torch_without_cuda() -> None:
    rows = {**ok("tensorrt_rtx", "gpu"), "torch_cuda": Row("missing")}
    assert backends(rows) == {"export": ["tensorrt_rtx"], "run": []}


def test_a_broken_gpu_provider_leaves_the_cpu_to_run_artifacts(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    listed = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: listed)
    monkeypatch.setattr(probes, "version", lambda package: "1.0" if package == "onnxruntime-gpu" else "")
    monkeypatch.setattr(cuda, "look", lambda: NO_GPU)
    row = probes.run("onnxruntime")
    assert backends({"onnxruntime": row})["run"] == ["onnxruntime"]
    assert row.status == "broken" and not healthy({"onnxruntime": row})
    assert probes.NO_DRIVER in row.fix
