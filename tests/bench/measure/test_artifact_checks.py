"""What is taken from an artifact's manifest: engines' figures and layer types."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from dashdeploy import stages
from dashdeploy.artifact import EngineLayers
from dashdeploy.bench.measure import artifact_checks

HEAVY = {"source": "network definition", "heavy": {"convolution": {"int8": 30, "float16": 2}}}
INSPECTED = {"source": "both", "heavy": {"matmul": {"float16": 14}}, "engine": {"gemm": {"float16": 9}}}
GRAPHS: dict[str, Any] = {
    "guided": {"engine": {"build_s": 12.5, "build_peak_mib": 900, "layers": HEAVY}},
    "sampler": {"engine": {"build_s": 30.0, "build_peak_mib": 1400.5, "layers": INSPECTED}},
    "step": {"engine": {"build_s": None, "build_peak_mib": None, "layers": None}},
    "cond": {"file": "cond.onnx"},
}


def test_build_time_is_added_up_and_build_memory_is_the_most_of_one() -> None:
    assert artifact_checks.build_figures({"graphs": GRAPHS}) == (42.5, 1400.5)
    assert all(math.isnan(v) for v in artifact_checks.build_figures({"graphs": {"cond": {}}}))
    assert all(math.isnan(v) for v in artifact_checks.build_figures({}))


def test_layers_are_those_of_the_engines_and_parity_keeps_its_worst_row(tiny_run: Path) -> None:
    stage = stages.read_stage(tiny_run / "artifacts" / "onnx-cpu")
    manifest = {**stage.manifest, "artifact": {**stage.manifest["artifact"], "graphs": GRAPHS}}
    checks = artifact_checks.artifact_checks("student-x", stages.Stage(stage.folder, manifest))
    assert checks.layers == {
        "guided": EngineLayers(source="network definition", heavy={"convolution": {"int8": 30, "float16": 2}}),
        "sampler": EngineLayers(source="both", heavy={"matmul": {"float16": 14}}, engine={"gemm": {"float16": 9}}),
    }
    assert checks.gate is None and checks.float_layers is None and checks.parity is not None
    assert checks.parity.limits.keys() == {"relative_error", "sampler_error"} and checks.parity.rows == ()
    assert checks.parity.worst.relative_error == stage.figures["parity"]["worst"]["relative_error"]
