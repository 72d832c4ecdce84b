"""Proof of an engine's precision: which types its convolutions, matrix products and attentions compute in.

TensorRT 11 and TensorRT-RTX type networks strongly: the types of the network definition are what the builder
must keep, so they are counted there, before the build, on any machine. What the engine inspector says of the
finished engine is added where a GPU can open it; an RTX engine is mostly one compiled block to the inspector.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypedDict

from dashdeploy.errors import UserError

HEAVY = {
    "CONVOLUTION": "convolution",
    "DECONVOLUTION": "deconvolution",
    "MATRIX_MULTIPLY": "matmul",
    "EINSUM": "einsum",
    "ATTENTION_INPUT": "attention",
}
DTYPES = {
    **{"FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16", "INT8": "int8", "INT32": "int32", "INT64": "int64"},
    **{"BOOL": "bool", "UINT8": "uint8", "FP8": "float8", "INT4": "int4", "FP4": "float4", "E8M0": "float8_e8m0"},
}
"""TensorRT's names of types -> numpy's and torch's."""
EXPECTED = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "int8": "int8"}
SOURCE = "network definition (strongly typed)"
WITH_INSPECTOR = SOURCE + " and engine inspector"
THROUGH = ("SHUFFLE", "IDENTITY", "UNSQUEEZE", "SQUEEZE")
"""Layers between a dequantization and its user that only move data."""
HEAVY_KERNELS = r"conv|gemm|matrix|matmul|mha|attention"
"""The engine inspector's layer types that are heavy."""
MOST_NAMED = 5


class Layer(TypedDict):
    """A heavy layer: its ONNX node's name, its kind (a value of HEAVY) and the type it computes in."""

    name: str
    kind: str
    dtype: str


def heavy_layers(network: Any) -> list[Layer]:
    """The heavy layers of a parsed TensorRT network, those in loop bodies included.

    A layer whose operands all come from dequantized int8 computes in int8; one with only int8 weights does not.
    """
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    producers = {}
    for layer in layers:
        for i in range(layer.num_outputs):
            if (tensor := layer.get_output(i)) is not None:
                producers[tensor.name] = layer
    heavy: list[Layer] = []
    for layer in layers:
        if layer.type.name in HEAVY:
            operands = [layer.get_input(i) for i in range(min(2, layer.num_inputs))]
            quantized = {_dequantized(tensor, producers) for tensor in operands if tensor is not None}
            stored = quantized.pop() if len(quantized) == 1 and None not in operands else None
            dtype = stored or DTYPES.get(operands[0].dtype.name, operands[0].dtype.name)
            heavy.append(Layer(name=onnx_name(layer), kind=HEAVY[layer.type.name], dtype=dtype))
    return heavy


def _dequantized(tensor: Any, producers: Mapping[str, Any]) -> str | None:
    """The integer type that a tensor was dequantized from, or None."""
    producer = producers.get(tensor.name)
    while producer is not None and producer.type.name in THROUGH:
        producer = producers.get(producer.get_input(0).name)
    if producer is None or producer.type.name != "DEQUANTIZE":
        return None
    name = producer.get_input(0).dtype.name
    return DTYPES.get(name, name)


def onnx_name(layer: Any) -> str:
    """The name of the ONNX node that a TensorRT layer was made from; the layer's where none is noted."""
    match = re.search(r"\[ONNX Layer: ([^\]]+)\]", layer.metadata or "")
    return match[1] if match else str(layer.name)


def counts(layers: Sequence[Layer]) -> dict[str, dict[str, int]]:
    """{kind: {type: number}}."""
    numbers: dict[str, Counter[str]] = {}
    for layer in layers:
        numbers.setdefault(layer["kind"], Counter())[layer["dtype"]] += 1
    return {kind: dict(sorted(numbers[kind].items())) for kind in sorted(numbers)}


def prove(
    layers: Sequence[Layer],
    precision: str,
    *,
    float_layers: Collection[str] = (),
    modules: Mapping[str, str] | None = None,
) -> None:
    """Refuse a network that does not compute in the precision that was asked for.

    int8 stands for convolutions: the quantizer leaves matrix products in float32.

    Args:
        precision: fp32, fp16, bf16 or int8.
        float_layers: torch names of layers that were left in float32 on purpose, as in ``mid_block.resnets.0.conv1``.
        modules: ONNX node name -> torch module, to recognise float_layers and to name layers of another type.

    Raises:
        UserError: it names the layers and their types.
    """
    modules, expected = modules or {}, EXPECTED[precision]
    judged = [x for x in layers if precision != "int8" or x["kind"].endswith("convolution")]
    if not judged:
        raise UserError(
            f"the engine's precision cannot be shown: {precision} was asked for, and the network has no "
            f"{'convolution' if precision == 'int8' else 'convolution, matrix product or attention'}."
        )
    wrong = [x for x in judged if x["dtype"] != expected and not _declared(x, float_layers, modules)]
    if not wrong and any(x["dtype"] == expected for x in judged):
        return
    wrong = wrong or judged
    kinds = Counter(f"{x['dtype']} {x['kind']}" for x in wrong)
    listed = ", ".join(_title(x, modules) for x in wrong[:MOST_NAMED]) + (", …" if len(wrong) > MOST_NAMED else "")
    raise UserError(
        f"{precision} was asked for, but {len(wrong)} of {len(judged)} heavy layers are not {expected}: "
        f"{', '.join(f'{n} {kind}' for kind, n in kinds.items())} ({listed}). TensorRT computes in the types of the "
        f"ONNX graph: export a graph in {precision}, or set the target's precision to what the graph is."
    )


def _title(layer: Layer, modules: Mapping[str, str]) -> str:
    module = modules.get(layer["name"])
    return f"{layer['name']} of {module}" if module else layer["name"]


def _declared(layer: Layer, float_layers: Collection[str], modules: Mapping[str, str]) -> bool:
    module = modules.get(layer["name"], layer["name"])
    is_float = layer["dtype"] in ("float32", "float16", "bfloat16")
    return is_float and any(module == name or module.endswith("." + name) for name in float_layers)


def engine_layers(information: str) -> dict[str, dict[str, int]]:
    """{layer type: {type of its first output: number}} of an engine inspector's JSON.

    "unknown" where the inspector names no type, as it does for layers of dynamic shapes.
    """
    numbers: dict[str, Counter[str]] = {}
    for layer in json.loads(information).get("Layers", []):
        if not isinstance(layer, dict):  # only names: the engine was built with another verbosity
            layer = {}
        outputs = layer.get("Outputs") or [{}]
        text = str(outputs[0].get("Format/Datatype") or outputs[0].get("Datatype") or "")
        numbers.setdefault(str(layer.get("LayerType", "unknown")), Counter())[_dtype_in(text)] += 1
    return {kind: dict(sorted(numbers[kind].items())) for kind in sorted(numbers)}


def _dtype_in(text: str) -> str:
    names = {"bfloat16|bf16": "bfloat16", "fp16|half": "float16", "fp8": "float8", "fp32|float": "float32"}
    names |= {"uint8": "uint8", "int8": "int8", "int32": "int32", "int64": "int64", "bool": "bool"}
    return next((name for words, name in names.items() if re.search(words, text.lower())), "unknown")


def prove_engine(layers: Mapping[str, Mapping[str, int]] | None, precision: str) -> None:
    """Refuse a finished engine in half precision whose heavy layers are all float32 to the inspector.

    Args:
        layers: what `engine_layers` returned; None: the engine could not be opened where it was built.

    Raises:
        UserError: it lists the layers.
    """
    if layers is None or precision not in ("fp16", "bf16"):
        return
    heavy = {kind: dtypes for kind, dtypes in layers.items() if re.search(HEAVY_KERNELS, kind, re.IGNORECASE)}
    seen = {dtype for dtypes in heavy.values() for dtype in dtypes} - {"unknown"}
    if seen == {"float32"}:
        listed = ", ".join(f"{dtypes['float32']} {kind}" for kind, dtypes in heavy.items() if "float32" in dtypes)
        raise UserError(
            f"{precision} was asked for, but the finished engine computes in float32: {listed}. "
            "Please report it: the network that it was built from was typed right."
        )


def inspect(trt: Any, plan: bytes, logger: Any) -> dict[str, dict[str, int]] | None:
    """What the engine inspector says of a finished plan; None where it cannot be opened or read here. Needs a GPU."""
    engine = trt.Runtime(logger).deserialize_cuda_engine(plan)
    if engine is None:
        return None
    information = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    try:
        return engine_layers(information)
    except (ValueError, AttributeError):
        return None
