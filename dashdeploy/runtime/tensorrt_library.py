"""The TensorRT libraries, plain and RTX: which is here, its versions, the driver and the device, and a quiet logger."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from importlib import metadata
from types import ModuleType
from typing import Any

from dashdeploy import cuda
from dashdeploy.artifact import Flavour
from dashdeploy.errors import UserError
from dashdeploy.lazy import require

EXTRAS: dict[Flavour, str] = {"tensorrt": "tensorrt", "tensorrt_rtx": "rtx"}
TITLES: dict[Flavour, str] = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}
RTX_COMPUTE_CAPABILITIES = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")
"""What TensorRT-RTX builds for. It has no server GPU of 9.0 or 10.0."""
CUDA_MAJORS = (15, 14, 13, 12)
"""Suffixes of the wheels' names, newest first."""
MOST_MESSAGES = 200


@dataclass(frozen=True)
class Here:
    """What this machine has to build or run an engine with; None: not there, or not known.

    version: of this flavour's library. cuda: major version of the CUDA that it was built with. driver_cuda: the newest
    CUDA that the driver runs. compute_capability: as in "8.9".
    """

    flavour: Flavour
    version: str | None = None
    cuda: str | None = None
    driver_cuda: str | None = None
    device_name: str | None = None
    compute_capability: str | None = None


def load(flavour: Flavour) -> ModuleType:
    """Import `tensorrt` or `tensorrt_rtx`.

    Raises:
        UserError: it is not installed, or the other one is loaded in this process already.
    """
    other: Flavour = "tensorrt" if flavour == "tensorrt_rtx" else "tensorrt_rtx"
    if other in sys.modules:
        raise UserError(
            f"{TITLES[flavour]} cannot be loaded: this process uses {TITLES[other]}, and both register the same types. "
            "Run each of the two in a separate process."
        )
    try:
        return require(flavour, extra=EXTRAS[flavour])
    except UserError as error:
        raise _with_a_way_out(flavour, str(error)) from error


def require_installed(flavour: Flavour) -> None:
    """Refuse a machine without the library or Polygraphy, without loading either.

    Raises:
        UserError: one line with the install command.
    """
    for module in (flavour, "polygraphy"):
        if importlib.util.find_spec(module) is None:
            message = f"{module} is not installed. Install it with: pip install 'dashdeploy[{EXTRAS[flavour]}]'"
            raise _with_a_way_out(flavour, message)


def _with_a_way_out(flavour: Flavour, message: str) -> UserError:
    way_out = ", or export with `--to rtx`, which builds without a GPU" if flavour == "tensorrt" else ""
    return UserError(message + way_out)


def environment(flavour: Flavour) -> dict[str, str]:
    """Environment variables that Polygraphy reads when it is imported: the flavour; no installing by itself."""
    return {
        "POLYGRAPHY_USE_TENSORRT_RTX": "1" if flavour == "tensorrt_rtx" else "0",
        "POLYGRAPHY_AUTOINSTALL_DEPS": "0",
    }


def versions(flavour: Flavour) -> tuple[str | None, str | None]:
    """(library version, major version of its CUDA), read from the wheels without loading them; None: not known."""
    stem = flavour.replace("_", "-")
    for major in CUDA_MAJORS:
        try:
            return metadata.version(f"{stem}-cu{major}"), str(major)
        except metadata.PackageNotFoundError:
            continue
    try:
        return metadata.version(stem), None
    except metadata.PackageNotFoundError:
        return None, None


def has_driver() -> bool:
    """Whether CUDA's driver is here and sees a GPU; ask before any TensorRT object is made, see `dashdeploy.cuda`."""
    return cuda.look().works


def driver_cuda() -> str | None:
    """The newest CUDA version that the driver runs, as in "13.0"; None without a driver."""
    return cuda.look().cuda or None


def device_name(device: str = "cuda") -> str | None:
    """A CUDA device's name as torch has it; None without one."""
    import torch

    return torch.cuda.get_device_name(torch.device(device)) if torch.cuda.is_available() else None


def compute_capability(device: str = "cuda") -> str | None:
    """A CUDA device's compute capability, as in "8.9"; None without one."""
    import torch

    if not torch.cuda.is_available():
        return None
    major, minor = torch.cuda.get_device_capability(torch.device(device))
    return f"{major}.{minor}"


def facts(flavour: Flavour, device: str = "cuda") -> Here:
    """What this machine has for a flavour, without loading it."""
    version, built_with = versions(flavour)
    if not has_driver():
        return Here(flavour, version, built_with)
    return Here(flavour, version, built_with, driver_cuda(), device_name(device), compute_capability(device))


def collecting_logger(trt: Any) -> Any:
    """A TensorRT logger that keeps warnings and errors in `.messages` as (severity, text) and prints nothing.

    Args:
        trt: the module that `load` returned.
    """
    kept = ("INTERNAL_ERROR", "ERROR", "WARNING")

    class Collector(trt.ILogger):
        def __init__(self) -> None:
            super().__init__()
            self.messages: list[tuple[str, str]] = []

        def log(self, severity: Any, text: str) -> None:
            if severity.name in kept and len(self.messages) < MOST_MESSAGES:
                self.messages.append((severity.name, text))

    return Collector()
