"""int8 by static Q/DQ: ranges from the student's trajectories, per-channel weights, any layers left in float.

Of a UNet convolutions are quantized and nothing else: on CPUs quantizing MatMul and Gemm as well was slower, and they
hold a few percent of its arithmetic. Of a DiT it is the linear layers that see every token: the attention's projections
and the MLP. Its patches, its modulation by t and y, and the products of attention stay in float. A layer is called by
its torch name, as in ``mid_block.resnets.0.conv1`` or ``transformer_blocks.0.ff.net.2``.
"""

from __future__ import annotations

import ast
import logging
import tempfile
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx
import torch

from dashdeploy.diffusion import guidance
from dashdeploy.errors import UserError
from dashdeploy.export.graph import onnx_file
from dashdeploy.lazy import require
from dashdeploy.metrics.gap import Probes

OPERATORS = ["Conv", "MatMul"]
"""Of the first kind that a network has layers of, see `layers_of`."""
PER_CHANNEL = {"MatMul": 1}
"""The axis of a weight's output channels, where it is not the quantizer's own choice."""
MODULE = "denoiser.unet."
MAX_OPSET = 20
"""ONNX Runtime's optimizer makes invalid QuantizeLinear nodes of newer ones."""
BATCH = 16
ALWAYS_FLOAT = ("conv_in",)
"""Its input is x itself, one to three channels: rounding it saves nothing and rounds the trajectory. The layers of a
DiT that see x or make the prediction are none of `layers_of`."""


@dataclass(frozen=True)
class Calibrated:
    """A float graph, prepared and with the range of each of its activations."""

    graph: Path
    ranges: Any
    layers: dict[str, str]
    """Layer -> node name."""


class Reader:
    """ONNX Runtime's calibration feeds: batches of the draws, by the graph's input names.

    Args:
        scale: the guidance scale of all draws, or of each, (N,) float32.
    """

    def __init__(
        self, probes: Probes, inputs: Collection[str], *, null_class: int, scale: float | torch.Tensor
    ) -> None:
        self.probes, self.inputs, self.null_class = probes, inputs, null_class
        self.w = torch.as_tensor(scale, dtype=torch.float32).expand(len(probes.t))
        self._batches = self._feeds()

    def _feeds(self) -> Iterator[dict[str, np.ndarray]]:
        for start in range(0, len(self.probes.t), BATCH):
            part = slice(start, start + BATCH)
            x, t, y, w = self.probes.x_t[part], self.probes.t[part], self.probes.y[part], self.w[part]
            if "w" not in self.inputs:  # the graph of one branch sees both kinds of label
                x, t, y = guidance.stack(x, t, y, null_class=self.null_class)
            known = {"x": x, "t": t, "t_prev": (t - 20).clamp(min=-1), "y": y, "w": w}
            yield {name: known[name].contiguous().numpy() for name in self.inputs}

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next batch, or None after the last."""
        return next(self._batches, None)


def layer_of(node: onnx.NodeProto) -> str:
    """The torch name of the layer that a convolution's weight belongs to."""
    return _within(node.input[1].removesuffix(".weight"))


def layers_of(graph: Path, *, traced: Path | None = None) -> dict[str, str]:
    """Layer -> node name of each layer that int8 is for, in the graph's order: a DiT's linear layers, or convolutions.

    Args:
        traced: the graph as it was exported, whose nodes tell their modules; None: `graph` itself.
    """
    model = onnx.load(graph, load_external_data=False)
    weights = _linear_layers(model if traced is None else onnx.load(traced, load_external_data=False))
    nodes = model.graph.node
    if weights:
        return {weights[n.input[1]]: n.name for n in nodes if n.op_type == "MatMul" and n.input[1] in weights}
    return {layer_of(node): node.name for node in nodes if node.op_type == "Conv"}


def _linear_layers(model: onnx.ModelProto) -> dict[str, str]:
    """Weight -> layer of the linear layers over tokens in a DiT's blocks; empty of a UNet.

    torch exports a linear layer over (B, N, D) as a MatMul by a constant, whose name says nothing; the node tells
    its module.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    found = {}
    for node in model.graph.node:
        if node.op_type == "MatMul" and node.input[1] in constants:
            scopes = next((p.value for p in node.metadata_props if p.key == onnx_file.MODULE_OF_NODE), "[]")
            modules = ast.literal_eval(scopes)
            if len(modules) > 1:
                found[node.input[1]] = _within(modules[-2])
    return {weight: layer for weight, layer in found.items() if layer.startswith("transformer_blocks.")}


def _within(module: str) -> str:
    """A module's name within the network."""
    return module.split(MODULE)[-1].removeprefix("unet.")


class Feeds(Protocol):
    """What a graph is calibrated with, by the names of its inputs, batch by batch."""

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next batch, or None after the last."""
        ...


def calibrate(float_graph: Path, work: Path, reader: Feeds, *, method: str) -> Calibrated:
    """Run the draws through a float graph and note each activation's range.

    Args:
        work: folder for files that are needed until the graph has been quantized.
        method: minmax, percentile or entropy.

    Raises:
        UserError: onnxruntime is not installed.
    """
    require("onnxruntime", extra="cpu")
    from onnxruntime.quantization import CalibrationMethod
    from onnxruntime.quantization.calibrate import create_calibrator
    from onnxruntime.quantization.shape_inference import quant_pre_process

    methods = {
        "minmax": CalibrationMethod.MinMax,
        "percentile": CalibrationMethod.Percentile,
        "entropy": CalibrationMethod.Entropy,
    }
    prepared = work / f"{float_graph.stem}-prepared.onnx"
    with hushed():
        quant_pre_process(str(float_graph), str(prepared), skip_symbolic_shape=True)
        with tempfile.TemporaryDirectory(dir=work) as folder:
            calibrator = create_calibrator(
                prepared,
                OPERATORS,
                augmented_model_path=f"{folder}/augmented.onnx",
                calibrate_method=methods[method],
                extra_options={"symmetric": False},
            )
            calibrator.collect_data(reader)
            ranges = calibrator.compute_data()
    return Calibrated(prepared, ranges, layers_of(prepared, traced=float_graph))


def quantize(calibrated: Calibrated, *, layers: Collection[str], symmetric: bool) -> onnx.ModelProto:
    """The graph with Q/DQ around these layers, per-channel int8 weights.

    Args:
        symmetric: int8 activations without zero points and float biases, as TensorRT wants them; else uint8
            activations, which CPUs run faster.

    Raises:
        UserError: a layer that the graph does not have.
    """
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
    from onnxruntime.quantization.quant_utils import load_model_with_shape_infer

    if missing := sorted(set(layers) - calibrated.layers.keys()):
        raise UserError(f"int8: no such layer: {', '.join(missing)}. Known: {', '.join(calibrated.layers)}.")
    options = {
        "ActivationSymmetric": symmetric,
        "WeightSymmetric": True,
        "QuantizeBias": not symmetric,
        "QDQOpTypePerChannelSupportToAxis": PER_CHANNEL,
    }
    with hushed():
        quantizer = QDQQuantizer(
            load_model_with_shape_infer(calibrated.graph),
            True,
            False,
            QuantType.QInt8,
            QuantType.QInt8 if symmetric else QuantType.QUInt8,
            calibrated.ranges,
            [calibrated.layers[layer] for layer in calibrated.layers if layer in layers],
            [],
            OPERATORS,
            options,
        )
        quantizer.quantize_model()
        quantizer.model.topological_sort()
    model: onnx.ModelProto = quantizer.model.model
    return model


@contextmanager
def hushed() -> Iterator[None]:
    """Keep the quantizer's advice off the terminal."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            root.setLevel(level)
