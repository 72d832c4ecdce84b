"""torch module -> checked ONNX file whose batch is dynamic and whose metadata says what it holds."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import torch
from torch import nn

from dashdeploy.artifact import Precision
from dashdeploy.errors import UserError

EXTERNAL_BYTES = 1024
"""Smaller tensors stay in the graph: they are shapes and indices, which shape inference reads."""
FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE)
METADATA_PREFIX = "dashdeploy."
MODULE_OF_NODE = "pkg.torch.onnx.name_scopes"


def trace(
    module: nn.Module,
    example: tuple[torch.Tensor, ...],
    *,
    inputs: Sequence[str],
    outputs: Sequence[str],
    opset: int,
    batches: Sequence[int] | None = None,
) -> onnx.ModelProto:
    """torch module -> model with its weights in memory. The first dimension of all inputs and outputs is the batch.

    Args:
        batches: how many times the batch the first dimension of each input is; None: once.

    Raises:
        UserError: torch cannot export the module, or a batch dimension came out fixed.
    """
    batch, dims = torch.export.Dim("batch"), [torch.export.Dim.DYNAMIC] * len(example)
    if batches is not None and max(batches) > 1:
        dims = [times * batch if times > 1 else batch for times in batches]
    with quiet():
        try:
            program = torch.onnx.export(
                module.eval(),
                example,
                dynamo=True,
                opset_version=opset,
                input_names=list(inputs),
                output_names=list(outputs),
                dynamic_shapes=[{0: dim} for dim in dims],
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise UserError(f"torch.onnx.export failed: {' '.join(str(error).split())[:400]}") from error
    assert program is not None
    model = program.model_proto
    strip_traces(model)
    name_batch(model)
    assert_dynamic_batch(model)
    return model


def save(model: onnx.ModelProto, path: Path, *, metadata: dict[str, Any], single_file_mb: int) -> Path:
    """Write a model, whose weights are in memory, to `path` and check it.

    The weights go into the same file while the model takes less than single_file_mb (10⁶ bytes), else into <path>.data.

    Args:
        metadata: stored in the model's metadata_props as JSON, each key prefixed ``dashdeploy.``.
    """
    del model.metadata_props[:]
    for key, value in metadata.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = METADATA_PREFIX + key, json.dumps(value)
    data = path.with_name(path.name + ".data")
    data.unlink(missing_ok=True)
    apart = model.ByteSize() >= single_file_mb * 1_000_000
    onnx.save(model, path, save_as_external_data=apart, location=data.name, size_threshold=EXTERNAL_BYTES)
    onnx.checker.check_model(str(path), full_check=True)
    return path


def convolution_types(model: onnx.ModelProto, *, products: bool = False) -> dict[str, int]:
    """How many convolutions compute in which type, as their weights have it, loop bodies included.

    Quantized weights (int8 through DequantizeLinear) count as int8.

    Args:
        products: count matrix products by a constant as well.
    """
    types: Counter[str] = Counter()
    graphs = [model.graph]
    while graphs:
        graph = graphs.pop()
        weights = {tensor.name: tensor.data_type for tensor in graph.initializer}
        made_by = {out: node for node in graph.node for out in node.output}
        for node in graph.node:
            graphs += [a.g for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]
            by_constant = node.op_type == "MatMul" and products and _is_constant(node.input[1], weights, made_by)
            if node.op_type == "Conv" or by_constant:
                name = node.input[1]
                while name not in weights and name in made_by:
                    name = made_by[name].input[0]
                kind = weights.get(name, onnx.TensorProto.UNDEFINED)
                types[onnx.TensorProto.DataType.Name(kind).lower()] += 1
    return dict(types)


def _is_constant(name: str, weights: dict[str, int], made_by: dict[str, onnx.NodeProto]) -> bool:
    made = made_by.get(name)
    return name in weights or (
        made is not None and made.op_type == "DequantizeLinear" and _is_constant(made.input[0], weights, made_by)
    )


def require_precision(model: onnx.ModelProto, precision: Precision, *, graph: str) -> dict[str, int]:
    """The convolutions' types, which must be those of the precision; beside int8 some may be in float.

    Where no convolution is int8, the matrix products by constants are counted too: of a DiT they are what is quantized.

    Raises:
        UserError: it gives the counts.
    """
    types = convolution_types(model)
    if precision == "int8" and "int8" not in types:
        with_products = convolution_types(model, products=True)
        types = with_products if "int8" in with_products else types
    expected = {"fp32": "float", "fp16": "float16", "bf16": "bfloat16", "int8": "int8"}[precision]
    others = sum(types.values()) - types.get(expected, 0)
    if not types.get(expected) or (others and precision != "int8"):
        counts = ", ".join(f"{count} {kind}" for kind, count in types.items()) or "none"
        raise UserError(f"{precision} was asked for, and the {graph} graph's convolutions are: {counts}")
    return types


def require_finite(model: onnx.ModelProto, *, graph: str) -> None:
    """Refuse a weight that is NaN or Inf, loop bodies included: what was damaged, or does not fit into half precision.

    Raises:
        UserError: it names the graph and the first such tensor.
    """
    graphs = [model.graph]
    while graphs:
        part = graphs.pop()
        graphs += [a.g for node in part.node for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]
        for tensor in part.initializer:
            if tensor.data_type in FLOATS and not np.isfinite(onnx.numpy_helper.to_array(tensor).astype(float)).all():
                raise UserError(
                    f"the {graph} graph: weight {tensor.name} holds NaN or Inf. The student's own weights are finite, "
                    "so they do not fit into this precision: take bf16 or fp32."
                )


def load(path: Path) -> onnx.ModelProto:
    """A model with its weights in memory, wherever they lie."""
    return onnx.load(path)


def files(path: Path) -> list[str]:
    """The names of the files that a graph consists of."""
    data = path.with_name(path.name + ".data")
    return [path.name, *([data.name] if data.is_file() else [])]


def strip_traces(model: onnx.ModelProto) -> None:
    """Drop torch's notes on each node (stack traces with local paths) but for the torch module that it came from."""
    for node in model.graph.node:
        kept = [(p.key, p.value) for p in node.metadata_props if p.key == MODULE_OF_NODE]
        del node.metadata_props[:]
        for key, value in kept:
            entry = node.metadata_props.add()
            entry.key, entry.value = key, value
    for value in [*model.graph.value_info, *model.graph.input, *model.graph.output, *model.graph.initializer]:
        del value.metadata_props[:]
    del model.graph.metadata_props[:]
    model.graph.doc_string = ""


def name_batch(model: onnx.ModelProto) -> None:
    """Call the symbolic batch of all inputs and outputs ``batch`` where torch named it otherwise."""
    symbols = {
        tensor.type.tensor_type.shape.dim[0].dim_param
        for tensor in model.graph.input
        if tensor.type.tensor_type.shape.dim[0].dim_param.isidentifier()
    }
    everything = [*model.graph.input, *model.graph.output, *model.graph.value_info]
    for dim in (d for tensor in everything for d in tensor.type.tensor_type.shape.dim):
        if dim.dim_param in symbols:
            dim.dim_param = "batch"
        elif dim.dim_param:
            for symbol in symbols:
                dim.dim_param = dim.dim_param.replace(symbol, "batch")


def assert_dynamic_batch(model: onnx.ModelProto) -> None:
    """Every input's and output's first dimension must be the symbol ``batch``, or a multiple of it.

    Raises:
        UserError: it names the tensors whose batch is fixed.
    """
    fixed = []
    for tensor in [*model.graph.input, *model.graph.output]:
        dims = tensor.type.tensor_type.shape.dim
        if not dims or "batch" not in dims[0].dim_param.split("*"):
            fixed.append(f"{tensor.name}: {dims[0].dim_value if dims else 'scalar'}")
    if fixed:
        raise UserError(
            f"the exported graph's batch is fixed ({', '.join(fixed)}): torch specialised on the example's batch size. "
            "Slice or reshape stacked batches instead of calling torch.chunk in the model."
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Keep torch.onnx's progress prints, and its warnings about parts that are not installed, off the terminal."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logger.setLevel(level)
