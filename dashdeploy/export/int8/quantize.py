"""int8 by static Q/DQ: ranges from the student's trajectories, per-channel weights, any layers left in float.

Convolutions are quantized and nothing else: on CPUs quantizing MatMul and Gemm as well was slower, and they
hold a few percent of a UNet's arithmetic. A layer is called by its torch name, as in ``mid_block.resnets.0.conv1``.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from dashdeploy.diffusion import guidance
from dashdeploy.errors import UserError
from dashdeploy.lazy import require
from dashdeploy.metrics.gap import Probes

OPERATORS = ["Conv"]
MODULE = "denoiser.unet."
MAX_OPSET = 20
"""ONNX Runtime's optimizer makes invalid QuantizeLinear nodes of newer ones."""
BATCH = 16
ALWAYS_FLOAT = ("conv_in",)
"""Its input is x itself, one to three channels: rounding it saves nothing and rounds the trajectory."""


@dataclass(frozen=True)
class Calibrated:
    """A float graph, prepared and with the range of each of its activations."""

    graph: Path
    ranges: Any
    layers: dict[str, str]
    """Layer -> node name."""


class Reader:
    """ONNX Runtime's calibration feeds: batches of the draws, by the graph's input names."""

    def __init__(self, probes: Probes, inputs: Collection[str], *, null_class: int, scale: float) -> None:
        self.probes, self.inputs, self.null_class, self.scale = probes, inputs, null_class, scale
        self._batches = self._feeds()

    def _feeds(self) -> Iterator[dict[str, np.ndarray]]:
        for start in range(0, len(self.probes.t), BATCH):
            part = slice(start, start + BATCH)
            x, t, y = self.probes.x_t[part], self.probes.t[part], self.probes.y[part]
            if "w" not in self.inputs:  # the graph of one branch sees both kinds of label
                x, t, y = guidance.stack(x, t, y, null_class=self.null_class)
            known = {"x": x, "t": t, "t_prev": (t - 20).clamp(min=-1), "y": y, "w": torch.full(y.shape, self.scale)}
            yield {name: known[name].numpy() for name in self.inputs}

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next batch, or None after the last."""
        return next(self._batches, None)


def layer_of(node: onnx.NodeProto) -> str:
    """The torch name of the layer that a convolution's weight belongs to."""
    name = node.input[1].removesuffix(".weight")
    return name.split(MODULE)[-1].removeprefix("unet.")


def layers_of(graph: Path) -> dict[str, str]:
    """Layer -> node name of each convolution, in the graph's order."""
    nodes = onnx.load(graph, load_external_data=False).graph.node
    return {layer_of(node): node.name for node in nodes if node.op_type in OPERATORS}


def calibrate(float_graph: Path, work: Path, reader: Reader, *, method: str) -> Calibrated:
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
    return Calibrated(prepared, ranges, layers_of(prepared))


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
    options = {"ActivationSymmetric": symmetric, "WeightSymmetric": True, "QuantizeBias": not symmetric}
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
