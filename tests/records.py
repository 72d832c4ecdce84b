"""Manifests for tests: an engine's record where none was built, and a manifest with one value changed."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from dashdeploy.artifact import BatchRange, EngineFlags, EngineLayers, EngineRecord, Flavour


def with_value(manifest: dict[str, Any], keys: Sequence[str], value: Any) -> dict[str, Any]:
    """A copy with the value at these keys set, or removed where it is KeyError; a decimal key is a list's index."""
    edited = copy.deepcopy(manifest)
    *parents, last = (int(key) if key.isdecimal() else key for key in keys)
    at: Any = edited
    for key in parents:
        at = at[key]
    if value is KeyError:
        del at[last]
    else:
        at[last] = value
    return edited


def engine_record(flavour: Flavour, **changes: Any) -> EngineRecord:
    """An engine of one profile, batch 1 to 64, built for compute capability 8.9."""
    flags = EngineFlags(
        strongly_typed=True,
        tf32=False,
        workspace_mib=None,
        optimization_level=3,
        version_compatible=False,
        hardware_compatibility="none",
    )
    fields: dict[str, Any] = {
        "flavour": flavour,
        "tensorrt": "11.1.0.10",
        "cuda": "13",
        "driver_cuda": None,
        "device_name": None,
        "compute_capabilities": ("8.9",),
        "profiles": (BatchRange(min=1, opt=8, max=64),),
        "flags": flags,
        "onnx_sha256": "0" * 64,
        "plan_sha256": "1" * 64,
        "plan_bytes": 4,
        "inputs": (),
        "outputs": (),
        "build_s": 1.0,
        "build_peak_mib": 100.0,
        "layers": EngineLayers(source="network definition (strongly typed)", heavy={}),
        "from_cache": False,
    }
    return EngineRecord(**{**fields, **changes})
