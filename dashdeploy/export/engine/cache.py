"""Built TensorRT plans, kept by what they were built from: graph, library, device and settings.

An entry is <key>.json, which names its plan by the plan's SHA-256, and <SHA-256>.plan. A plan is native code: an
entry whose plan has another hash is thrown away, and whoever can write to the cache's folder can run code.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dashdeploy import stages
from dashdeploy.runtime import tensorrt_library
from dashdeploy.runtime.tensorrt_library import Flavour
from dashdeploy.target import Engine

FORMAT = 2
"""Of the entries and of what the builder makes of the same settings; a change throws every entry away."""


def identity(flavour: Flavour, config: Engine) -> dict[str, Any]:
    """What a plan depends on beside its graph and settings: flavour, version, and the device that it is built for.

    None: not here. Nothing is raised.
    """
    here = tensorrt_library.facts(flavour)
    parts: dict[str, Any] = {"format": FORMAT, "flavour": flavour, "version": here.version}
    if config.compute_capabilities:
        return parts
    return {
        **parts,
        "compute_capability": here.compute_capability,
        "device_name": here.device_name,
        "driver_cuda": here.driver_cuda,
    }


def key(onnx_sha256: str, flavour: Flavour, config: Engine) -> str:
    """The key of a plan; onnx_sha256: over the graph and its weights."""
    settings = config.model_dump(mode="json", exclude={"timing_cache"})
    return stages.digest({**identity(flavour, config), "onnx": onnx_sha256, "settings": settings})


def fetch(
    folder: Path, entry: str, plan: Path, *, accept: Callable[[dict[str, Any]], None] = lambda described: None
) -> dict[str, Any] | None:
    """Copy an entry's plan to `plan` and return what was stored with it; None if it is missing or damaged.

    A damaged entry is removed, so that it is built again.

    Args:
        accept: called with the stored description before anything is copied; it raises to refuse it.
    """
    path = folder / f"{entry}.json"
    try:
        stored: dict[str, Any] = json.loads(path.read_bytes())
        sha256, described = stored["plan_sha256"], stored["described"]
        source = folder / f"{_name(sha256)}.plan"
        if stored["key"] == entry and stored["described_sha256"] == stages.digest(described):
            accept(described)
            if _copy(source, plan, sha256=sha256):
                return dict(described)
    except (OSError, ValueError, KeyError, TypeError):
        pass  # missing, or not an entry
    path.unlink(missing_ok=True)
    return None


def store(folder: Path, entry: str, plan: Path, described: dict[str, Any]) -> None:
    """Keep a plan and what describes it (JSON); another process sees the whole entry or none."""
    folder.mkdir(parents=True, exist_ok=True)
    sha256 = stages.file_sha256(plan)
    _copy(plan, folder / f"{sha256}.plan", sha256=sha256)
    stored = {"plan_sha256": sha256, "described_sha256": stages.digest(described), "described": described}
    text = json.dumps({"key": entry, **stored}, indent=2) + "\n"
    descriptor, name = tempfile.mkstemp(dir=folder, prefix=".", suffix=".json")
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    os.replace(name, folder / f"{entry}.json")


def _name(sha256: str) -> str:
    """A hash as a file name: an entry may not point elsewhere."""
    if len(sha256) != 64 or set(sha256) - set("0123456789abcdef"):
        raise ValueError("not a SHA-256")
    return sha256


def _copy(source: Path, target: Path, *, sha256: str) -> bool:
    """Copy a file if it has this hash: whole or not at all."""
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=".", suffix=".plan")
    os.close(descriptor)
    try:
        shutil.copyfile(source, name)
        if stages.file_sha256(Path(name)) != sha256:
            return False
        Path(name).chmod(0o644)
        os.replace(name, target)
        return True
    finally:
        Path(name).unlink(missing_ok=True)
