"""TensorRT-RTX really builds every graph in every precision, and the layers' types are what was asked for."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from dashdeploy.artifact import SIGNATURES
from dashdeploy.diffusion.sampling import plan
from dashdeploy.errors import UserError
from dashdeploy.export.engine import build as engine_build
from dashdeploy.export.graph import onnx_file, sampler_graph
from dashdeploy.export.int8 import quantize
from dashdeploy.recipe.schema import Sampling
from dashdeploy.target import Engine, Profile
from dashdeploy.teachers import formats
from tests.export.conftest import export_graph

pytestmark = pytest.mark.slow

pytest.importorskip("tensorrt_rtx", reason="pip install 'dashdeploy[rtx]'")
CONFIG = Engine(profiles=(Profile(min=1, opt=4, max=8),), compute_capabilities=("8.9",))
TYPES = {"fp32": "float32", "fp16": "float16", "int8": "int8"}
STEPS = plan(Sampling(num_inference_steps=4), 1000).timesteps


@pytest.fixture(scope="module")
def engine_graphs(tiny_run: Path, draws, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    """guided, step and sampler of the tiny student in each precision."""
    student = formats.load(tiny_run / "student", role="student")
    folder = tmp_path_factory.mktemp("graphs")
    found: dict[tuple[str, str], Path] = {}
    for name in ("guided", "step"):
        plain = export_graph(student, name, folder / f"{name}-fp32.onnx")
        found["fp32", name] = plain
        found["fp16", name] = export_graph(student, name, folder / f"{name}-fp16.onnx", precision="fp16", opset=22)
        reader = quantize.Reader(draws[0], SIGNATURES[name][0], null_class=10, scale=2.0)
        calibrated = quantize.calibrate(plain, folder, reader, method="minmax")
        layers = [layer for layer in calibrated.layers if layer not in quantize.ALWAYS_FLOAT]
        model = quantize.quantize(calibrated, layers=layers, symmetric=True)
        found["int8", name] = onnx_file.save(model, folder / f"{name}-int8.onnx", metadata={}, single_file_mb=100)
    for precision in TYPES:
        model = sampler_graph.assemble(onnx.load(found[precision, "step"]), STEPS, form="loop")
        path = folder / f"sampler-{precision}.onnx"
        found[precision, "sampler"] = onnx_file.save(model, path, metadata={}, single_file_mb=100)
    return found


@pytest.mark.parametrize("name", ["guided", "step", "sampler"])
@pytest.mark.parametrize("precision", list(TYPES))
def test_every_graph_builds_in_every_precision(
    engine_graphs: dict[tuple[str, str], Path], precision: str, name: str, tmp_path: Path
) -> None:
    told: list[float] = []
    record = engine_build.build(
        engine_graphs[precision, name],
        tmp_path / "a.plan",
        CONFIG,
        flavour="tensorrt_rtx",
        precision=precision,
        cache=tmp_path / "cache",
        on_progress=lambda phase, share: told.append(share),
        float_layers=quantize.ALWAYS_FLOAT if precision == "int8" else (),
    )
    assert (tmp_path / "a.plan").stat().st_size == record.plan_bytes > 10_000
    assert told == sorted(told) and told[-1] == 1.0
    assert record.build_s > 0 and record.build_peak_mib > 0
    convolutions = record.layers.heavy["convolution"]
    assert convolutions[TYPES[precision]] == max(convolutions.values())
    assert set(convolutions) == ({"int8", "float32"} if precision == "int8" else {TYPES[precision]})


@pytest.mark.parametrize("asked", ["fp16", "int8"])
def test_a_float32_graph_is_never_passed_off_as_less(
    engine_graphs: dict[tuple[str, str], Path], asked: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=rf"{asked} was asked for, but .* heavy layers are not"):
        engine_build.build(
            engine_graphs["fp32", "guided"],
            tmp_path / "a.plan",
            CONFIG,
            flavour="tensorrt_rtx",
            precision=asked,
            cache=tmp_path / "cache",
        )
    assert not (tmp_path / "a.plan").exists()
