"""int8 for OpenVINO by NNCF, on the same draws and with the same layers left in float as ONNX Runtime's quantizer."""

from __future__ import annotations

import io
import logging
from collections.abc import Collection
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import onnx

from dashdeploy.export.int8.quantize import Reader, layers_of
from dashdeploy.lazy import require

HEAVY = ("Conv", "Gemm", "MatMul")

FLOAT_OPERATORS = [
    *("MatMul", "Add", "Subtract", "Multiply", "Divide", "MVN", "Concat", "Sqrt"),
    *("ScaledDotProductAttention", "Interpolate", "Power", "LessEqual"),
]
"""Only the inputs of convolutions are rounded. With NNCF's choice, which rounds sums and products as well, a small
student's gap error was 0.48 in place of 0.18, and a step took 10 % longer."""


def quantize(graph: Path, reader: Reader, float_layers: Collection[str]) -> Any:
    """An OpenVINO model of an ONNX file with int8 layers, see `quantize.layers_of`.

    Args:
        float_layers: those that stay in float.

    Raises:
        UserError: openvino or nncf is not installed.
    """
    openvino: Any = require("openvino", extra="openvino")
    nncf: Any = require("nncf", extra="openvino")
    logging.getLogger("nncf").setLevel(logging.ERROR)
    feeds = []
    while (batch := reader.get_next()) is not None:
        feeds.append(batch)
    model = openvino.convert_model(str(graph))
    nodes, types = _left_in_float(graph, float_layers)
    # OpenVINO's front end splits a convolution from its bias.
    wanted = {name for node in nodes for name in (node, f"{node}/WithoutBiases")}
    there = [op.get_friendly_name() for op in model.get_ops() if op.get_friendly_name() in wanted]
    with redirect_stdout(io.StringIO()):  # its progress bars
        return nncf.quantize(
            model,
            nncf.Dataset(feeds),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(feeds),
            ignored_scope=nncf.IgnoredScope(names=there, types=types, validate=False),
        )


def _left_in_float(graph: Path, float_layers: Collection[str]) -> tuple[list[str], list[str]]:
    """Names of ONNX nodes, and OpenVINO's types of operators, that are not rounded.

    OpenVINO has one type for a DiT's linear layers, its modulation and the products of attention: the last two are
    named.
    """
    layers = layers_of(graph)
    nodes = [node for layer, node in layers.items() if layer in float_layers]
    if not any(layer.startswith("transformer_blocks.") for layer in layers):
        return nodes, FLOAT_OPERATORS
    heavy = [n.name for n in onnx.load(graph, load_external_data=False).graph.node if n.op_type in HEAVY]
    others = [name for name in heavy if name not in layers.values()]
    return [*nodes, *others], [kind for kind in FLOAT_OPERATORS if kind != "MatMul"]
