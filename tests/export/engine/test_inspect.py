"""The proof of precision, on stand-ins for TensorRT's networks; test_engine_build has real ones."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from dashdeploy.errors import UserError
from dashdeploy.export.engine import inspect as engine_inspect
from dashdeploy.export.engine.inspect import Layer, prove


def named(name: str) -> SimpleNamespace:
    return SimpleNamespace(name=name)


class FakeLayer:
    def __init__(self, kind: str, inputs: list[Any], outputs: list[Any], name: str = "", metadata: str = "") -> None:
        self.type, self.inputs, self.outputs = named(kind), inputs, outputs
        self.name, self.metadata = name, metadata
        self.num_inputs, self.num_outputs = len(inputs), len(outputs)

    def get_input(self, i: int) -> Any:
        return self.inputs[i]

    def get_output(self, i: int) -> Any:
        return self.outputs[i]


def tensor(name: str, dtype: str = "FLOAT") -> SimpleNamespace:
    return SimpleNamespace(name=name, dtype=named(dtype))


def network(*layers: FakeLayer) -> Any:
    return SimpleNamespace(num_layers=len(layers), get_layer=lambda i: layers[i])


def test_int8_means_that_both_operands_are_dequantized_int8() -> None:
    x8, w8 = tensor("x8", "INT8"), tensor("w8", "INT8")
    x, w, turned = tensor("x"), tensor("w"), tensor("turned")
    from_x = FakeLayer("DEQUANTIZE", [x8], [x])
    from_w = FakeLayer("DEQUANTIZE", [w8], [w])
    shuffle = FakeLayer("SHUFFLE", [w], [turned])
    both = FakeLayer("CONVOLUTION", [x, turned], [tensor("a")], metadata="[ONNX Layer: both]")
    weights_alone = FakeLayer("CONVOLUTION", [tensor("y"), w], [tensor("b")], "weights alone")
    constant_weight = FakeLayer("CONVOLUTION", [x, None], [tensor("c")], "constant")
    found = engine_inspect.heavy_layers(network(from_x, from_w, shuffle, both, weights_alone, constant_weight))
    assert found == [
        {"name": "both", "kind": "convolution", "dtype": "int8"},
        {"name": "weights alone", "kind": "convolution", "dtype": "float32"},
        {"name": "constant", "kind": "convolution", "dtype": "float32"},
    ]


def test_layers_that_are_not_heavy_and_outputs_that_are_missing_are_passed_over() -> None:
    trip = FakeLayer("TRIP_LIMIT", [tensor("n")], [None])
    attention = FakeLayer("ATTENTION_INPUT", [tensor("q", "HALF"), tensor("k", "HALF")], [tensor("o", "HALF")], "att")
    found = engine_inspect.heavy_layers(network(trip, FakeLayer("SOFTMAX", [tensor("s")], [tensor("o")]), attention))
    assert found == [{"name": "att", "kind": "attention", "dtype": "float16"}]


def layer(dtype: str, name: str = "n", kind: str = "convolution") -> Layer:
    return Layer(name=name, kind=kind, dtype=dtype)


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", "float32"), ("fp16", "float16"), ("bf16", "bfloat16"), ("int8", "int8")]
)
def test_the_precision_that_was_asked_for_passes(precision: str, dtype: str) -> None:
    prove([layer(dtype), layer(dtype)], precision)


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8"])
def test_one_float32_layer_that_was_not_declared_is_refused_by_name(precision: str) -> None:
    expected = engine_inspect.EXPECTED[precision]
    layers = [layer(expected), layer("float32", "node_7")]
    with pytest.raises(UserError, match=r"1 of 2 .*\(node_7 of unet\.mid\.conv1\)"):
        prove(layers, precision, modules={"node_7": "unet.mid.conv1"})
    prove(layers, precision, modules={"node_7": "unet.mid.conv1"}, float_layers=["mid.conv1"])
    with pytest.raises(UserError, match="node_7"):
        prove(layers, precision, modules={"node_7": "unet.pyramid.conv1"}, float_layers=["mid.conv1"])


def test_fp32_with_half_inside_is_refused() -> None:
    with pytest.raises(UserError, match="1 of 2 heavy layers are not float32: 1 float16 matmul"):
        prove([layer("float32"), layer("float16", kind="matmul")], "fp32")


def test_int8_judges_convolutions_and_leaves_products_alone() -> None:
    prove([layer("int8"), layer("float32", kind="matmul")], "int8")
    with pytest.raises(UserError, match="cannot be shown"):
        prove([layer("float32", kind="matmul")], "int8")


def test_everything_declared_float_is_not_the_precision_that_was_asked_for() -> None:
    with pytest.raises(UserError, match="1 of 1"):
        prove([layer("float32", "a")], "int8", float_layers=["a"])


def test_a_declared_float_layer_may_not_be_int8_in_an_fp16_engine() -> None:
    with pytest.raises(UserError, match="int8 convolution"):
        prove([layer("float16"), layer("int8", "a")], "fp16", float_layers=["a"])


def test_nothing_heavy_proves_nothing() -> None:
    with pytest.raises(UserError, match="cannot be shown"):
        prove([], "fp16")


def test_many_wrong_layers_are_named_in_part() -> None:
    with pytest.raises(UserError, match=r"20 float32 convolution \(l0, l1, l2, l3, l4, …\)"):
        prove([layer("float32", f"l{i}") for i in range(20)], "fp16")


def test_the_inspectors_layers_are_counted_by_type() -> None:
    def entry(kind: str, text: str) -> dict[str, Any]:
        return {"LayerType": kind, "Outputs": [{"Name": "o", "Format/Datatype": text}]}

    text = json.dumps(
        {
            "Layers": [
                entry("gemm", "Half"),
                entry("gemm", "Row major linear FP16 format"),
                entry("CaskConvolution", "Thirty-two wide channel vectorized row major Int8 format"),
                entry("kgen", "N/A due to dynamic shapes"),
                entry("kgen", "BFloat16"),
                "just a name",
            ]
        }
    )
    assert engine_inspect.engine_layers(text) == {
        "CaskConvolution": {"int8": 1},
        "gemm": {"float16": 2},
        "kgen": {"bfloat16": 1, "unknown": 1},
        "unknown": {"unknown": 1},
    }


def test_a_finished_half_engine_that_is_all_float32_is_refused() -> None:
    layers = {"CaskGemmConvolution": {"float32": 3}, "gemm": {"float32": 2, "unknown": 4}, "kgen": {"float16": 9}}
    with pytest.raises(UserError, match="3 CaskGemmConvolution, 2 gemm"):
        engine_inspect.prove_engine(layers, "fp16")
    engine_inspect.prove_engine(layers, "fp32")
    engine_inspect.prove_engine({**layers, "gemm": {"float16": 1}}, "fp16")
    engine_inspect.prove_engine({"Myelin": {"float32": 1}, "gemm": {"unknown": 1}}, "fp16")
    engine_inspect.prove_engine(None, "fp16")
