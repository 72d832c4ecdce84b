"""NVIDIA's driver and its GPUs, asked of libcuda directly: no CUDA toolkit, torch or TensorRT is loaded.

Ask it before any TensorRT object is made: without a driver TensorRT's runtimes fail late, and some crash at the end.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

LIBRARY = "libcuda.so.1"
NO_DEVICE = 100  # what cuInit returns where the driver works and shows this process no GPU
CAPABILITY_MAJOR, CAPABILITY_MINOR = 75, 76  # of CUdevice_attribute


@dataclass(frozen=True)
class Driver:
    """What libcuda says.

    Attributes:
        installed: whether libcuda could be loaded.
        code: what cuInit returned; 0 is success.
        problem: why no GPU can be used, or ''.
        cuda: the newest CUDA that the driver runs, as in "13.0", or ''.
        devices: one line for each GPU: name, compute capability, memory.
    """

    installed: bool
    code: int = 0
    problem: str = ""
    cuda: str = ""
    devices: tuple[str, ...] = ()

    @property
    def works(self) -> bool:
        """Whether there is a GPU to run on."""
        return bool(self.devices)


def look(library: str = LIBRARY) -> Driver:
    """Load the driver, start it and list its GPUs."""
    try:
        cuda = ctypes.CDLL(library)
    except OSError as error:
        return Driver(installed=False, problem=f"no driver ({error})")
    number = ctypes.c_int()
    known = cuda.cuDriverGetVersion(ctypes.byref(number)) == 0
    version = f"{number.value // 1000}.{number.value % 1000 // 10}" if known else ""
    if code := cuda.cuInit(0):
        return Driver(installed=True, code=code, problem=f"cuInit fails: {_said(cuda, code)}", cuda=version)
    count = ctypes.c_int()
    if (code := cuda.cuDeviceGetCount(ctypes.byref(count))) or count.value == 0:
        return Driver(installed=True, code=code or NO_DEVICE, problem="the driver lists no GPU", cuda=version)
    return Driver(installed=True, cuda=version, devices=tuple(_device(cuda, i) for i in range(count.value)))


def _said(cuda: Any, code: int) -> str:
    text = ctypes.c_char_p()
    if cuda.cuGetErrorString(code, ctypes.byref(text)) == 0 and text.value:
        return f"error {code} ({text.value.decode(errors='replace')})"
    return f"error {code}"


def _device(cuda: Any, index: int) -> str:
    name, total = ctypes.create_string_buffer(100), ctypes.c_size_t()
    major, minor = ctypes.c_int(), ctypes.c_int()
    codes = (
        cuda.cuDeviceGetName(name, len(name), index),
        cuda.cuDeviceGetAttribute(ctypes.byref(major), CAPABILITY_MAJOR, index),
        cuda.cuDeviceGetAttribute(ctypes.byref(minor), CAPABILITY_MINOR, index),
        cuda.cuDeviceTotalMem_v2(ctypes.byref(total), index),
    )
    if any(codes):
        return f"GPU {index}: it does not answer ({_said(cuda, next(c for c in codes if c))})"
    capability = f"compute capability {major.value}.{minor.value}"
    return f"{name.value.decode(errors='replace')}, {capability}, {total.value / 2**30:.0f} GiB"
