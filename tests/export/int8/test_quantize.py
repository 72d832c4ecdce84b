"""Quantized graphs: int8 costs the guidance gap most, and the gate refuses wrong scales."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from dashdeploy.errors import UserError
from dashdeploy.export.checks import gate
from dashdeploy.export.graph import onnx_file
from dashdeploy.export.int8 import quantize
from tests.export.conftest import opened
from tests.limits import LOOSE


def test_int8_costs_the_gap_more_than_the_branches(trained, calibrated, its_gate, tmp_path: Path) -> None:
    layers = [layer for layer in calibrated.layers if layer not in quantize.ALWAYS_FLOAT]
    model = quantize.quantize(calibrated, layers=layers, symmetric=False)
    rung = its_gate.judge(opened(model, tmp_path / "int8.onnx", trained.interface), "int8")
    assert rung.overall.relative_error > 2 * rung.overall.cond_error
    assert rung.excess > 1 and "gap" in " ".join(rung.failures)


def scaled_by_4(model: onnx.ModelProto) -> onnx.ModelProto:
    damaged = copy.deepcopy(model)
    scales = {node.input[1] for node in damaged.graph.node if node.op_type == "QuantizeLinear"}
    for tensor in damaged.graph.initializer:
        if tensor.name in scales:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(4), tensor.name))
    return damaged


def test_int8_scales_off_by_4_are_refused(trained, draws, calibrated, tmp_path: Path) -> None:
    loose = gate.prepare(trained, draws[1], LOOSE, scale=2.0)
    layers = [layer for layer in calibrated.layers if layer not in quantize.ALWAYS_FLOAT]
    sound = quantize.quantize(calibrated, layers=layers, symmetric=False)
    assert loose.judge(opened(sound, tmp_path / "a.onnx", trained.interface), "int8").failures == ()
    assert loose.judge(opened(scaled_by_4(sound), tmp_path / "b.onnx", trained.interface), "int8").failures != ()


def test_tensorrts_form_is_symmetric_and_leaves_biases_in_float(calibrated) -> None:
    layers = [layer for layer in calibrated.layers if layer not in quantize.ALWAYS_FLOAT]
    model = quantize.quantize(calibrated, layers=layers, symmetric=True)
    values = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    zero_points = [values[n.input[2]] for n in model.graph.node if n.op_type == "QuantizeLinear" and len(n.input) > 2]
    assert zero_points and all((z == 0).all() and z.dtype == np.int8 for z in zero_points)
    assert not any(v.dtype == np.int32 for v in values.values())
    found = onnx_file.require_precision(model, "int8", graph="guided")
    assert found == {"int8": len(layers), "float": len(quantize.ALWAYS_FLOAT)}


def test_a_layer_that_is_not_there_is_named(calibrated) -> None:
    with pytest.raises(UserError, match=r"no such layer: mid_block\.nothing"):
        quantize.quantize(calibrated, layers=["mid_block.nothing"], symmetric=False)
