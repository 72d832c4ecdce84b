"""Entries of manifests for tests that have no engine: every field has a value that a build could have left."""

from __future__ import annotations

from typing import Any

from dashdeploy.artifact import BatchRange, EngineFlags, EngineLayers, EngineRecord, Flavour


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
