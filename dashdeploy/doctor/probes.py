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
from typing import Any

from dashdeploy.doctor.finding import Finding, Status

OLDEST_PYTHON = (3, 11)


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
        absent = isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] == module.split(".")[0]
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
    if module.cuda.is_available():
        names = [module.cuda.get_device_name(i) for i in range(module.cuda.device_count())]
        module.zeros(1, device="cuda").sum().item()
        return Finding("torch", "ok", module.__version__, f"CUDA {module.version.cuda}: {', '.join(names)}")
    if module.version.cuda is None:
        return Finding("torch", "ok", module.__version__, "a CPU build: it uses no GPU")
    return Finding("torch", "ok", module.__version__, f"built for CUDA {module.version.cuda}, and sees no GPU")


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
            "pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'dashdeploy[cpu]' (or [gpu])",
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
            "pip install 'onnxruntime-gpu[cuda,cudnn]', on a machine with NVIDIA's driver",
        )
    return Finding(name, "ok", module.__version__, detail)


def _provider_runs(module: Any, provider: str) -> str | None:
    """None if a graph really runs on the provider, else why not."""
    try:
        import numpy as np
        from onnx import TensorProto, helper

        value = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1]) for n in "xy"]
        node = helper.make_node("Identity", ["x"], ["y"])
        model = helper.make_model(
            helper.make_graph([node], "g", value[:1], value[1:]),
            opset_imports=[helper.make_opsetid("", 17)],
            ir_version=8,
        )
        options = module.SessionOptions()
        options.log_severity_level = 4
        session = module.InferenceSession(model.SerializeToString(), options, providers=[provider])
        if session.get_providers()[0] != provider:
            return "listed, and does not load (a CUDA or cuDNN library, or the driver, is missing)"
        session.run(None, {"x": np.zeros(1, np.float32)})
    except Exception as error:
        return f"fails: {' '.join(str(error).split())[:160]}"
    return None


def openvino() -> Finding:
    module, problem = imported("OpenVINO", "openvino", "openvino", fix="pip install 'dashdeploy[openvino]'")
    if problem is not None:
        return problem
    return Finding("OpenVINO", "ok", version("openvino"), f"devices: {', '.join(module.Core().available_devices)}")


def nncf() -> Finding:
    _, problem = imported("NNCF", "nncf", "nncf", fix="pip install 'dashdeploy[openvino]'")
    return problem or Finding("NNCF", "ok", version("nncf"), "int8 for OpenVINO")


def polygraphy() -> Finding:
    _, problem = imported("Polygraphy", "polygraphy", "polygraphy", fix="pip install 'dashdeploy[rtx]' (or [tensorrt])")
    return problem or Finding("Polygraphy", "ok", version("polygraphy"), "drives both TensorRT builders")


def tensorrt() -> Finding:
    fix = "pip install 'dashdeploy[tensorrt]', on a machine with an NVIDIA GPU; without one: --to rtx"
    module, problem = imported("TensorRT", "tensorrt", "tensorrt", fix=fix)
    if problem is not None:
        return problem
    if _driver() is None:
        return Finding(
            "TensorRT", "missing", module.__version__, "installed; no NVIDIA driver, so it cannot build", fix
        )
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
    runs = "" if _driver() else "; running them needs an NVIDIA GPU"
    return Finding("TensorRT-RTX", "ok", module.__version__, f"builds engines for RTX GPUs ahead of time{runs}")


def _driver() -> int | None:
    """CUDA version of the driver, as 13000; None: there is none, or it does not start.

    Asked of libcuda itself: a TensorRT runtime that is made without one may crash the process at its end.
    """
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    found = ctypes.c_int()
    if library.cuInit(0) != 0 or library.cuDriverGetVersion(ctypes.byref(found)) != 0:
        return None
    return found.value


def gpu() -> Finding:
    name = "NVIDIA GPU"
    found = _driver()
    tool = shutil.which("nvidia-smi")
    if found is None:
        there = any(os.path.exists(p) for p in ("/dev/nvidia0", "/dev/nvhost-gpu")) or tool
        fix = "install NVIDIA's driver (pip cannot), then: nvidia-smi"
        if there:
            return Finding(name, "broken", "", "a device or nvidia-smi is there, and libcuda.so.1 does not start", fix)
        return Finding(name, "missing", "", "no driver (libcuda.so.1)", fix)
    version_text = f"CUDA {found // 1000}.{found % 1000 // 10}"
    if tool is None:
        return Finding(name, "ok", version_text, "driver works; nvidia-smi is not on the path")
    query = [tool, "--query-gpu=name,compute_cap,memory.total,driver_version", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, check=False, timeout=10)
    return Finding(name, "ok", version_text, "; ".join(done.stdout.strip().splitlines()) or "no device is listed")


def cpp() -> Finding:
    found = {tool: shutil.which(tool) for tool in ("cmake", "g++", "clang++")}
    there = [tool for tool, path in found.items() if path]
    ready = bool(found["cmake"]) and (bool(found["g++"]) or bool(found["clang++"]))
    detail = f"found {', '.join(there) or 'none'}: for C++ applications, and for torch.compile"
    return Finding("C++ tools", "info", "", detail, "" if ready else "apt install cmake g++ (or your system's way)")


PROBES: dict[str, Callable[[], Finding]] = {
    "python": python,
    "torch": torch,
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
