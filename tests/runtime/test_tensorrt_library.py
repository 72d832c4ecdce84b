"""Loading, probing and naming TensorRT on machines that have little of it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from types import ModuleType

import pytest

from dashdeploy import cuda
from dashdeploy.errors import UserError
from dashdeploy.runtime import tensorrt_library
from dashdeploy.runtime.tensorrt_library import Here


def hide(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    for name in names:
        monkeypatch.setitem(sys.modules, name, None)  # type: ignore[arg-type]


def test_a_missing_library_is_one_line_with_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, "tensorrt_rtx")
    with pytest.raises(UserError, match=r"pip install 'dashdeploy\[rtx\]'$"):
        tensorrt_library.load("tensorrt_rtx")
    monkeypatch.delitem(sys.modules, "tensorrt_rtx")
    hide(monkeypatch, "tensorrt")
    monkeypatch.delitem(sys.modules, "tensorrt_rtx", raising=False)
    with pytest.raises(UserError, match=r"pip install 'dashdeploy\[tensorrt\]', or export with `--to rtx`"):
        tensorrt_library.load("tensorrt")
    with pytest.raises(UserError, match=r"tensorrt is not installed.*pip install 'dashdeploy\[tensorrt\]', or export"):
        tensorrt_library.require_installed("tensorrt")


def test_both_flavours_in_one_process_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch)
    monkeypatch.setitem(sys.modules, "tensorrt", ModuleType("tensorrt"))
    with pytest.raises(UserError, match=r"this process uses TensorRT, .* separate process"):
        tensorrt_library.load("tensorrt_rtx")


def test_polygraphy_is_told_the_flavour_and_not_to_install() -> None:
    assert tensorrt_library.environment("tensorrt_rtx")["POLYGRAPHY_USE_TENSORRT_RTX"] == "1"
    plain = tensorrt_library.environment("tensorrt")
    assert plain == {"POLYGRAPHY_USE_TENSORRT_RTX": "0", "POLYGRAPHY_AUTOINSTALL_DEPS": "0"}


@pytest.mark.parametrize(
    ("driver", "has", "newest"),
    [
        (cuda.Driver(installed=False, problem="no driver"), False, None),
        (cuda.Driver(installed=True, code=cuda.NO_DEVICE, cuda="13.1"), False, "13.1"),
        (cuda.Driver(installed=True, cuda="13.1", devices=("a GPU",)), True, "13.1"),
    ],
)
def test_the_driver_is_asked_without_tensorrt(
    monkeypatch: pytest.MonkeyPatch, driver: cuda.Driver, has: bool, newest: str | None
) -> None:
    monkeypatch.setattr(cuda, "look", lambda: driver)
    assert (tensorrt_library.has_driver(), tensorrt_library.driver_cuda()) == (has, newest)
    if not has:
        assert tensorrt_library.facts("tensorrt").compute_capability is None


def test_facts_with_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(tensorrt_library, "has_driver", lambda: True)
    monkeypatch.setattr(tensorrt_library, "driver_cuda", lambda: "13.0")
    monkeypatch.setattr(tensorrt_library, "versions", lambda flavour: ("11.0", "13"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"card {device.index}")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (12, 1))
    expected = Here("tensorrt", "11.0", "13", "13.0", "card 1", "12.1")
    assert tensorrt_library.facts("tensorrt", "cuda:1") == expected


@pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="needs tensorrt_rtx")
def test_versions_are_read_without_loading_the_library() -> None:
    code = (
        "import sys; from dashdeploy.runtime import tensorrt_library as t; version, cuda = t.versions('tensorrt_rtx');"
        "assert 'tensorrt_rtx' not in sys.modules and cuda.isdigit(); trt = t.load('tensorrt_rtx');"
        "assert trt.__version__ == version, (trt.__version__, version);"
        "known = [c for c in trt.ComputeCapability.__members__ if c.startswith('SM')];"
        "assert sorted(known) == sorted('SM' + c.replace('.', '') for c in t.RTX_COMPUTE_CAPABILITIES), known;"
        "log = t.collecting_logger(trt); log.log(trt.ILogger.INFO, 'a'); log.log(trt.ILogger.ERROR, 'b');"
        "assert log.messages == [('ERROR', 'b')], log.messages"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and not done.stdout, done.stderr
