"""Whether an engine fits this machine, told from its manifest, before any of its code is loaded."""

from __future__ import annotations

from pathlib import Path

from dashdeploy.artifact import EngineRecord
from dashdeploy.errors import UserError
from dashdeploy.runtime.tensorrt_library import EXTRAS, TITLES, Here

PACKAGES = {"tensorrt": "tensorrt", "tensorrt_rtx": "tensorrt-rtx-cu{cuda}"}


def check(engine: EngineRecord, here: Here, *, source: Path | str = "engine") -> list[str]:
    """Compare what an engine was built with to this machine.

    Args:
        engine: its entry in the manifest.
        here: `tensorrt_library.facts` of the device that it is to run on.
        source: the file, for messages.

    Returns:
        What may make it slower but does not stop it; often nothing.

    Raises:
        UserError: everything that does not fit, in one line, with what to do.
    """
    title = TITLES[here.flavour]
    if engine.flavour != here.flavour:
        raise UserError(
            f"{source}: built by {TITLES[engine.flavour]}, and {title} cannot run it. "
            f"Open it as {engine.flavour}, or export it again for {here.flavour}."
        )
    if here.version is None:
        raise UserError(
            f"{source}: {title} is not installed. Install it with: pip install 'dashdeploy[{EXTRAS[here.flavour]}]'"
        )
    if here.driver_cuda is None or here.compute_capability is None:
        raise UserError(f"{source}: {title} runs on an NVIDIA GPU with its driver, and there is none here.")
    problems = [*_version(engine, here), *_cuda(engine, here), *_capability(engine, here)]
    if problems:
        raise UserError(f"{source}: " + "; ".join(problems) + ".")
    name = engine.device_name
    if here.flavour == "tensorrt" and name and name != here.device_name:
        return [f"{source}: tuned on {name}, and this is {here.device_name}; built here it may be faster"]
    return []


def _version(engine: EngineRecord, here: Here) -> list[str]:
    built, installed = engine.tensorrt, str(here.version)
    if built == installed:
        return []
    if engine.flags.version_compatible:
        later = _numbers(installed)[:1] == _numbers(built)[:1] and _numbers(installed) >= _numbers(built)
        if later:
            return []
        reach = f"this version or a later {_numbers(built)[0]}.x"
    else:
        reach = "just this version"
    package = PACKAGES[here.flavour].format(cuda=engine.cuda or 13)
    return [
        f"built with {TITLES[here.flavour]} {built}, which {reach} runs, and {installed} is installed: "
        f"pip install {package}=={built}, or export it again here"
    ]


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".") if part.isdigit()]


def _cuda(engine: EngineRecord, here: Here) -> list[str]:
    """The driver must run the CUDA that the library here was built with; minor versions are compatible."""
    needed = here.cuda or engine.cuda
    assert here.driver_cuda is not None
    if needed is None or _numbers(here.driver_cuda)[0] >= int(needed):
        return []
    return [f"the library needs CUDA {needed}, and the driver runs {here.driver_cuda}: update the NVIDIA driver"]


def _capability(engine: EngineRecord, here: Here) -> list[str]:
    built, capability = engine.compute_capabilities, str(here.compute_capability)
    device = f"{here.device_name} has {capability}"
    if here.flavour == "tensorrt_rtx":
        if capability in built:
            return []
        return [
            f"built for compute capability {', '.join(built)}, and {device}: "
            f"export it again with {capability} in engine.compute_capabilities"
        ]
    level = engine.flags.hardware_compatibility
    if capability in built or (level == "ampere_plus" and _numbers(capability) >= [8, 0]):
        return []
    widest = "Ampere and later" if level == "ampere_plus" else f"compute capability {', '.join(built)}"
    advice = "export it again on this machine"
    if level != "ampere_plus" and _numbers(capability) >= [8, 0]:
        advice += ", or with engine.hardware_compatibility: ampere_plus"
    return [f"built for {widest}, and {device}: {advice}"]
