"""The probes, each run in a process of its own: a library that crashes takes only its own row with it.

Another probe: a function that returns a Finding, and one line in PROBES.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from dashdeploy.doctor import driver
from dashdeploy.doctor.finding import Finding, Status

OLDEST_PYTHON = (3, 11)
NO_DRIVER = "install or update NVIDIA's driver (pip cannot), then: nvidia-smi"
IDENTITY = bytes.fromhex(
    "08083a370a100a017812017922084964656e746974791201675a0f0a0178120a0a08080112040a020801"
    "620f0a0179120a0a08080112040a02080142040a001011"
)
"""An ONNX graph of one Identity (x to y, one float32; opset 17), so that a runtime is tried without onnx."""


def version(package: str) -> str:
    """Of an installed distribution, or ''."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def imported(name: str, module: str, package: str, *, fix: str, required: bool = False) -> tuple[Any, Finding | None]:
    """(module, None), or (None, why not): not installed, or installed and not importable."""
    found = version(package)
    try:
        return importlib.import_module(module), None
    except Exception as error:
        absent = isinstance(error, ModuleNotFoundError) and error.name == module and not found
        if found:  # to install what is installed does nothing
            fix = f"pip install --force-reinstall {package}=={found.split('+')[0]}"
        reason = "not installed" if absent else f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        status: Status = "missing" if absent and not required else "broken"
        return None, Finding(name, status, found, reason, fix)


def python() -> Finding:
    detail = f"{platform.system()} {platform.machine()}, {sys.executable}"
    if sys.version_info < OLDEST_PYTHON:
        wanted = ".".join(map(str, OLDEST_PYTHON))
        return Finding("Python", "broken", platform.python_version(), f"needs ≥ {wanted}", f"install Python ≥ {wanted}")
    return Finding("Python", "ok", platform.python_version(), detail)


def torch() -> Finding:
    module, problem = imported("torch", "torch", "torch", fix="pip install torch", required=True)
    if problem is not None:
        return problem
    (module.ones(2, 2) @ module.ones(2, 2)).sum().item()
    return Finding("torch", "ok", module.__version__, "computes on the CPU")


def torch_cuda() -> Finding:
    name = "torch's CUDA"
    module, problem = imported(name, "torch", "torch", fix="pip install torch")
    if problem is not None:
        return problem
    built, here = module.version.cuda, driver.look()
    if built is None:
        fix = f"pip install --force-reinstall torch=={module.__version__.split('+')[0]}" if here.works else ""
        return Finding(name, "missing", "", "a CPU build of torch: it uses no GPU", fix)
    if not here.works:
        return Finding(name, "missing", built, here.problem, NO_DRIVER)
    if not module.cuda.is_available():
        why = f"built for CUDA {built}, and the driver runs {here.cuda}: torch sees no GPU"
        return Finding(name, "broken", built, why, NO_DRIVER)
    module.zeros(1, device="cuda").sum().item()
    return Finding(name, "ok", built, f"computes on {module.cuda.device_count()} GPU(s)")


def plain(name: str, module: str, package: str) -> Callable[[], Finding]:
    """A required package that has only to be importable."""

    def probe() -> Finding:
        _, problem = imported(name, module, package, fix=f"pip install {package}", required=True)
        return problem or Finding(name, "ok", version(package))

    return probe


def onnxruntime() -> Finding:
    installed = [p for p in ("onnxruntime", "onnxruntime-gpu") if version(p)]
    name = "ONNX Runtime"
    if len(installed) == 2:
        return Finding(
            name,
            "broken",
            version(installed[0]),
            "onnxruntime and onnxruntime-gpu are both installed, and overwrite each other's files",
            "pip uninstall -y onnxruntime onnxruntime-gpu && "
            f"pip install 'dashdeploy[{'gpu' if driver.look().works else 'cpu'}]'",
        )
    module, problem = imported(
        name, "onnxruntime", (installed or ["onnxruntime"])[0], fix="pip install 'dashdeploy[cpu]'"
    )
    if problem is not None:
        return problem
    listed = module.get_available_providers()
    works = {p: _provider_runs(module, p) for p in listed if p != "AzureExecutionProvider"}
    detail = "; ".join(f"{p}: {'runs' if why is None else why}" for p, why in works.items())
    if works.get("CPUExecutionProvider", "absent") is not None:
        return Finding(name, "broken", module.__version__, detail, "pip install --force-reinstall 'dashdeploy[cpu]'")
    if works.get("CUDAExecutionProvider") is not None:
        return Finding(
            name,
            "broken",
            module.__version__,
            detail,
            "pip install 'onnxruntime-gpu[cuda,cudnn]'" + ("" if driver.look().works else f"; {NO_DRIVER}"),
        )
    return Finding(name, "ok", module.__version__, detail)


def _provider_runs(module: Any, provider: str) -> str | None:
    """None if a graph really runs on the provider, else why not."""
    try:
        import numpy as np

        options = module.SessionOptions()
        options.log_severity_level = 4
        session = module.InferenceSession(IDENTITY, options, providers=[provider])
        if session.get_providers()[0] != provider:
            return f"listed, and does not load ({_missing_library(module, provider)})"
        session.run(None, {"x": np.zeros(1, np.float32)})
    except Exception as error:
        return f"fails: {' '.join(str(error).split())[:160]}"
    return None


def _missing_library(module: Any, provider: str) -> str:
    """What the loader says of a provider's own library, which ONNX Runtime keeps to itself."""
    stem = provider.removesuffix("ExecutionProvider").lower()
    path = Path(module.__file__).parent / "capi" / f"libonnxruntime_providers_{stem}.so"
    try:
        ctypes.CDLL(str(path))
    except OSError as error:
        library, _, reason = str(error).partition(": ")
        if "cannot open shared object" in reason:
            return f"{Path(library).name} is missing"
    return "its libraries or the driver do not fit"


def openvino() -> Finding:
    module, problem = imported("OpenVINO", "openvino", "openvino", fix="pip install 'dashdeploy[openvino]'")
    if problem is not None:
        return problem
    return Finding("OpenVINO", "ok", version("openvino"), f"devices: {', '.join(module.Core().available_devices)}")


def nncf() -> Finding:
    _, problem = imported("NNCF", "nncf", "nncf", fix="pip install 'dashdeploy[openvino]'")
    return problem or Finding("NNCF", "ok", version("nncf"), "int8 for OpenVINO")


def polygraphy() -> Finding:
    _, problem = imported("Polygraphy", "polygraphy", "polygraphy", fix="pip install 'dashdeploy[rtx]'")
    return problem or Finding("Polygraphy", "ok", version("polygraphy"), "drives both TensorRT builders")


def tensorrt() -> Finding:
    fix = "pip install 'dashdeploy[tensorrt]'"
    module, problem = imported("TensorRT", "tensorrt", "tensorrt", fix=fix)
    if problem is not None:
        return problem
    here = driver.look()
    if not here.works:
        detail = f"installed; it builds and runs on an NVIDIA GPU only: {here.problem}"
        return Finding("TensorRT", "info", module.__version__, detail, f"{NO_DRIVER}; without a GPU: --to rtx")
    builder = module.Builder(module.Logger(module.Logger.ERROR))
    works = builder is not None
    return Finding("TensorRT", "ok" if works else "broken", module.__version__, "builds and runs engines for this GPU")


def tensorrt_rtx() -> Finding:
    fix = "pip install 'dashdeploy[rtx]'"
    module, problem = imported("TensorRT-RTX", "tensorrt_rtx", "tensorrt-rtx-cu13", fix=fix)
    if problem is not None:
        return problem
    if module.Builder(module.Logger(module.Logger.ERROR)) is None:
        return Finding("TensorRT-RTX", "broken", module.__version__, "its builder cannot be made", fix)
    runs = "" if driver.look().works else "; running them needs an NVIDIA GPU"
    return Finding("TensorRT-RTX", "ok", module.__version__, f"builds engines for RTX GPUs ahead of time{runs}")


def gpu() -> Finding:
    name, found = "NVIDIA GPU", driver.look()
    hardware = any(os.path.exists(p) for p in ("/dev/nvidia0", "/dev/nvhost-gpu"))
    cuda = f"CUDA {found.cuda}" if found.cuda else ""
    if found.works:
        return Finding(name, "ok", cuda, "; ".join((*found.devices, *_driver_version())))
    if "CUDA_VISIBLE_DEVICES" in os.environ and found.code == driver.NO_DEVICE:
        value = os.environ["CUDA_VISIBLE_DEVICES"]
        hidden = f"{found.problem}; CUDA_VISIBLE_DEVICES={value!r} may hide it"
        return Finding(name, "missing", cuda, hidden, "unset CUDA_VISIBLE_DEVICES")
    broken = hardware or (found.installed and found.code != driver.NO_DEVICE)
    return Finding(name, "broken" if broken else "missing", cuda, found.problem, NO_DRIVER)


def _driver_version() -> tuple[str, ...]:
    """The driver's release as nvidia-smi has it; empty where that is not there."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ()
    query = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, check=False, timeout=10)
    except subprocess.TimeoutExpired:
        return ("nvidia-smi hangs",)
    if done.returncode != 0:
        return (f"nvidia-smi fails: {' '.join(done.stdout.split())[:120]}",)
    return tuple(f"driver {line}" for line in sorted(set(done.stdout.split())))


def cpp() -> Finding:
    found = {tool: shutil.which(tool) for tool in ("cmake", "g++", "clang++")}
    there = [tool for tool, path in found.items() if path]
    ready = bool(found["cmake"]) and (bool(found["g++"]) or bool(found["clang++"]))
    detail = f"found {', '.join(there) or 'none'}: for C++ applications, and for torch.compile"
    return Finding("C++ tools", "info", "", detail, "" if ready else "apt install cmake g++ (or your system's way)")


PROBES: dict[str, Callable[[], Finding]] = {
    "python": python,
    "torch": torch,
    "torch_cuda": torch_cuda,
    "diffusers": plain("diffusers", "diffusers", "diffusers"),
    "accelerate": plain("accelerate", "accelerate", "accelerate"),
    "onnx": plain("onnx", "onnx", "onnx"),
    "onnxruntime": onnxruntime,
    "openvino": openvino,
    "nncf": nncf,
    "gpu": gpu,
    "polygraphy": polygraphy,
    "tensorrt": tensorrt,
    "tensorrt_rtx": tensorrt_rtx,
    "cpp": cpp,
}
