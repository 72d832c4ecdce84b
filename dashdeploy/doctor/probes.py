"""The probes. Each runs in its own process, so that a library that crashes takes only its own row with it.

python -m dashdeploy.doctor.probes NAME FILE runs one and writes its row to FILE: stdout is the libraries'.
Another probe: a function that returns a Row, and one line in PROBES.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import platform
import shutil
import signal
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from textwrap import shorten
from typing import Any, NamedTuple

from dashdeploy import cuda

NO_DRIVER = "install or update NVIDIA's driver (pip cannot), then: nvidia-smi"
CPU_RUNS = "CPUExecutionProvider: runs"  # ONNX Runtime's detail: artifacts run here, whatever its other providers do
PR_SET_PDEATHSIG = 1
IDENTITY = bytes.fromhex(  # an ONNX graph of one Identity (float32, opset 17): a runtime is tried without onnx
    "08083a370a100a017812017922084964656e746974791201675a0f0a0178120a0a08080112040a020801"
    "620f0a0179120a0a08080112040a02080142040a001011"
)


class Row(NamedTuple):
    """What a probe finds. status: ok; missing: optional, not installed; broken: does not work; info. fix: a command."""

    status: str
    version: str = ""
    detail: str = ""
    fix: str = ""


class Probe(NamedTuple):
    """A title, a function and the module that it is given, if any. A module without an extra is required."""

    title: str
    function: Callable[[Any], Row]
    module: str = ""
    package: str = ""
    extra: str = ""


def run(name: str) -> Row:
    """One probe's row, in this process."""
    _, function, module, package, extra = PROBES[name]
    loaded = imported(module, package or module, extra) if module else None
    return loaded if isinstance(loaded, Row) else function(loaded)


def imported(module: str, package: str, extra: str) -> Any:
    """The module, or the Row that says why it cannot be imported."""
    try:
        return importlib.import_module(module)
    except Exception as error:
        installed = version(package)
        absent = isinstance(error, ModuleNotFoundError) and error.name == module and not installed
        fix = f"pip install 'dashdeploy[{extra}]'" if extra else f"pip install {package}"
        if installed:  # installing it again would do nothing
            fix = f"pip install --force-reinstall {package}=={installed.split('+')[0]}"
        reason = "not installed" if absent else f"{type(error).__name__}: {shorten(str(error), 200)}"
        return Row("missing" if absent and extra else "broken", installed, reason, fix)


def version(package: str) -> str:
    """Of an installed distribution, or ''."""
    return next((distribution.version for distribution in metadata.distributions(name=package)), "")


def python(_: None) -> Row:
    return Row("ok", platform.python_version(), f"{platform.system()} {platform.machine()}, {sys.executable}")


def importable(module: Any) -> Row:
    return Row("ok", version(module.__name__), DETAILS.get(module.__name__, ""))


def torch(module: Any) -> Row:
    (module.ones(2, 2) @ module.ones(2, 2)).sum().item()
    return Row("ok", module.__version__, "computes on the CPU")


def torch_cuda(module: Any) -> Row:
    built, driver = module.version.cuda, cuda.look()
    if built is None:
        fix = f"pip install --force-reinstall torch=={module.__version__.split('+')[0]}" if driver.works else ""
        return Row("missing", "", "a CPU build of torch: it uses no GPU", fix)
    if not driver.works:
        return Row("missing", built, driver.problem, NO_DRIVER)
    if not module.cuda.is_available():
        return Row("broken", built, f"the driver runs CUDA {driver.cuda}: torch sees no GPU", NO_DRIVER)
    module.zeros(1, device="cuda").sum().item()
    return Row("ok", built, f"computes on {module.cuda.device_count()} GPU(s)")


def onnxruntime(_: None) -> Row:
    works = cuda.look().works
    installed = [package for package in ("onnxruntime", "onnxruntime-gpu") if version(package)]
    if len(installed) == 2:
        detail = "onnxruntime and onnxruntime-gpu are both installed, and overwrite each other's files"
        fix = f"pip uninstall -y {' '.join(installed)} && pip install 'dashdeploy[{'gpu' if works else 'cpu'}]'"
        return Row("broken", version(installed[0]), detail, fix)
    module = imported("onnxruntime", installed[0] if installed else "onnxruntime", "cpu")
    if isinstance(module, Row):
        return module
    listed = [provider for provider in module.get_available_providers() if provider != "AzureExecutionProvider"]
    failures = {provider: _provider_fails(module, provider) for provider in listed}
    detail, fix = "; ".join(f"{provider}: {why or 'runs'}" for provider, why in failures.items()), ""
    if failures.get("CPUExecutionProvider", "absent"):
        fix = "pip install --force-reinstall 'dashdeploy[cpu]'"
    elif failures.get("CUDAExecutionProvider"):
        fix = "pip install 'onnxruntime-gpu[cuda,cudnn]'" + ("" if works else f"; {NO_DRIVER}")
    return Row("broken" if fix else "ok", module.__version__, detail, fix)


def _provider_fails(module: Any, provider: str) -> str:
    """'' if a graph really runs on the provider, else why not."""
    try:
        import numpy as np

        options = module.SessionOptions()
        options.log_severity_level = 4
        session = module.InferenceSession(IDENTITY, options, providers=[provider])
        if session.get_providers()[0] != provider:  # the loader says why, which ONNX Runtime does not pass on
            stem = provider.removesuffix("ExecutionProvider").lower()
            ctypes.CDLL(str(Path(module.__file__).parent / "capi" / f"libonnxruntime_providers_{stem}.so"))
            return "listed, and does not load: its libraries or the driver do not fit"
        session.run(None, {"x": np.zeros(1, np.float32)})
    except Exception as error:
        return f"fails: {shorten(str(error), 160)}"
    return ""


def openvino(module: Any) -> Row:
    return Row("ok", version("openvino"), f"devices: {', '.join(module.Core().available_devices)}")


def tensorrt(module: Any) -> Row:
    driver = cuda.look()
    if not driver.works:
        detail = f"installed; it builds and runs on an NVIDIA GPU only: {driver.problem}"
        return Row("info", module.__version__, detail, f"{NO_DRIVER}; without a GPU: --to rtx")
    module.Builder(module.Logger(module.Logger.ERROR))  # raises where it cannot be made
    return Row("ok", module.__version__, "builds and runs engines for this GPU")


def tensorrt_rtx(module: Any) -> Row:
    module.Builder(module.Logger(module.Logger.ERROR))
    runs = "" if cuda.look().works else "; running them needs an NVIDIA GPU"
    return Row("ok", module.__version__, f"builds engines for RTX GPUs ahead of time{runs}")


def gpu(_: None) -> Row:
    driver, hidden = cuda.look(), os.environ.get("CUDA_VISIBLE_DEVICES")
    newest, release = f"CUDA {driver.cuda}" if driver.cuda else "", Path("/sys/module/nvidia/version")
    if driver.works:
        kernel_module = [f"driver {release.read_text().strip()}"] if release.is_file() else []
        return Row("ok", newest, "; ".join([*driver.devices, *kernel_module]))
    if hidden is not None and driver.code == cuda.NO_DEVICE:
        detail = f"{driver.problem}; CUDA_VISIBLE_DEVICES={hidden!r} may hide it"
        return Row("missing", newest, detail, "unset CUDA_VISIBLE_DEVICES")
    broken = any(map(os.path.exists, ("/dev/nvidia0", "/dev/nvhost-gpu"))) or driver.code not in (0, cuda.NO_DEVICE)
    return Row("broken" if broken else "missing", newest, driver.problem, NO_DRIVER)


def cpp(_: None) -> Row:
    tools = [tool for tool in ("cmake", "g++", "clang++") if shutil.which(tool)]
    fix = "" if "cmake" in tools and len(tools) > 1 else "apt install cmake g++ (or your system's package manager)"
    return Row("info", "", f"found {', '.join(tools) or 'none'}: for C++ applications, and for torch.compile", fix)


DETAILS = {"nncf": "int8 for OpenVINO", "polygraphy": "drives both TensorRT builders"}
PROBES: dict[str, Probe] = {  # in the order of the table
    "python": Probe("Python", python),
    "torch": Probe("torch", torch, "torch"),
    "torch_cuda": Probe("torch's CUDA", torch_cuda, "torch"),
    "diffusers": Probe("diffusers", importable, "diffusers"),
    "accelerate": Probe("accelerate", importable, "accelerate"),
    "onnx": Probe("onnx", importable, "onnx"),
    "onnxruntime": Probe("ONNX Runtime", onnxruntime),
    "openvino": Probe("OpenVINO", openvino, "openvino", extra="openvino"),
    "nncf": Probe("NNCF", importable, "nncf", extra="openvino"),
    "gpu": Probe("NVIDIA GPU", gpu),
    "polygraphy": Probe("Polygraphy", importable, "polygraphy", extra="rtx"),
    "tensorrt": Probe("TensorRT", tensorrt, "tensorrt", extra="tensorrt"),
    "tensorrt_rtx": Probe("TensorRT-RTX", tensorrt_rtx, "tensorrt_rtx", "tensorrt-rtx-cu13", "rtx"),
    "cpp": Probe("C++ tools", cpp),
}


def main(name: str, path: Path) -> None:
    """Run one probe and write its row as JSON."""
    if sys.platform == "linux":  # end with the doctor, even where it is killed
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.environ.update(OMP_NUM_THREADS="1", POLYGRAPHY_USE_TENSORRT_RTX="1", TQDM_DISABLE="1")
    path.write_text(json.dumps(run(name)), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
