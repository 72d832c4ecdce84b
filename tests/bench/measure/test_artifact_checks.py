"""What is taken from an artifact's manifest: its checks, and its engines' cost and layers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from dashdeploy import manifest, stages
from dashdeploy.artifact import BatchRange, EngineFlags, EngineLayers, EngineRecord
from dashdeploy.bench.measure import artifact_checks

pytestmark = pytest.mark.slow

HEAVY = EngineLayers(source="network definition", heavy={"convolution": {"int8": 30, "float16": 2}})
INSPECTED = EngineLayers(source="both", heavy={"matmul": {"float16": 14}}, engine={"gemm": {"float16": 9}})


def engine(build_s: float, build_peak_mib: float, layers: EngineLayers) -> EngineRecord:
    flags: dict[str, Any] = {"strongly_typed": True, "tf32": False, "workspace_mib": None, "optimization_level": 3}
    return EngineRecord(
        flavour="tensorrt",
        tensorrt="10.0",
        cuda="13",
        driver_cuda=None,
        device_name=None,
        compute_capabilities=("9.0",),
        profiles=(BatchRange(min=1, opt=8, max=64),),
        flags=EngineFlags(**flags, version_compatible=False, hardware_compatibility="none"),
        onnx_sha256="0" * 64,
        plan_sha256="1" * 64,
        plan_bytes=1,
        inputs=(),
        outputs=(),
        build_s=build_s,
        build_peak_mib=build_peak_mib,
        layers=layers,
        from_cache=False,
    )


def with_engines(tiny_run: Path) -> manifest.Manifest:
    """A real artifact's manifest as if two of its graphs were engines."""
    read = manifest.read(stages.read_stage(tiny_run / "artifacts" / "onnx-cpu"))
    graphs = dict(read.artifact.graphs)
    for name, built in (("guided", engine(12.5, 900, HEAVY)), ("sampler", engine(30.0, 1400.5, INSPECTED))):
        graphs[name] = graphs[name].model_copy(update={"engine": built})
    return read.model_copy(update={"artifact": read.artifact.model_copy(update={"graphs": graphs})})


def test_build_time_is_added_up_and_build_memory_is_the_most_of_one(tiny_run: Path) -> None:
    assert artifact_checks.build_cost(with_engines(tiny_run).artifact) == (42.5, 1400.5)
    plain = manifest.read(stages.read_stage(tiny_run / "artifacts" / "onnx-cpu"))
    assert all(math.isnan(value) for value in artifact_checks.build_cost(plain.artifact))
    assert all(math.isnan(value) for value in artifact_checks.build_cost(None))


def test_layers_are_those_of_the_engines_and_parity_keeps_its_worst_row(tiny_run: Path) -> None:
    read = with_engines(tiny_run)
    checks = artifact_checks.artifact_checks("student-x", read)
    assert checks.layers == {"guided": HEAVY, "sampler": INSPECTED}
    assert checks.gate is None and checks.float_layers is None
    assert checks.parity is not None and read.figures.parity is not None and len(read.figures.parity.rows) > 1
    assert checks.parity == read.figures.parity.model_copy(update={"rows": ()})
