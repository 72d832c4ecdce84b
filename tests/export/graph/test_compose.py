"""Of one trace of its network a student's graphs are composed; that they compute what torch does, parity tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from onnx import helper

from dashdeploy.artifact import SIGNATURES, output_name
from dashdeploy.diffusion.denoiser import TorchDenoiser
from dashdeploy.export.graph import compose, onnx_file, rewrite
from dashdeploy.teachers import formats


@pytest.fixture(scope="module")
def student(tiny_run: Path) -> TorchDenoiser:
    denoiser = formats.load(tiny_run / "student", role="student").eval()
    return rewrite.for_export(denoiser, group_norm="instance", precision="fp32")


def network_nodes(model: onnx.ModelProto) -> dict[str, tuple[str, list[str]]]:
    """Node -> its operator and weights, of the nodes that came from the student's network."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return {
        node.name: (node.op_type, [name for name in node.input if name in weights])
        for node in model.graph.node
        if any("unet" in prop.value for prop in node.metadata_props if prop.key == onnx_file.MODULE_OF_NODE)
    }


def test_torch_traces_the_network_once_and_every_graph_has_its_nodes_and_weights(
    student: TorchDenoiser, monkeypatch: pytest.MonkeyPatch
) -> None:
    traced: list[str] = []
    trace = onnx_file.trace

    def counted(module: torch.nn.Module, *args: Any, **settings: Any) -> onnx.ModelProto:
        traced.append(type(module).__name__)
        return trace(module, *args, **settings)

    monkeypatch.setattr(onnx_file, "trace", counted)
    found = dict(compose.student_graphs(student, compose.COMPOSED, clip_sample=True, opset=20))
    assert sorted(traced) == ["Combine", "Network", "Stack", "Update"]
    nodes = network_nodes(found["cond"])
    assert len(nodes) > 20
    assert network_nodes(found["guided"]) == network_nodes(found["step"]) == nodes
    for name, model in found.items():
        onnx.checker.check_model(model, full_check=True)
        inputs, output = SIGNATURES[name][0], output_name(name, student.interface.prediction)
        assert [tensor.name for tensor in model.graph.input] == list(inputs)
        assert [tensor.name for tensor in model.graph.output] == [output]
        onnx_file.assert_dynamic_batch(model)


def test_the_cond_graph_is_the_network_alone(student: TorchDenoiser) -> None:
    [(name, model)] = compose.student_graphs(student, ["cond"], clip_sample=True, opset=20)
    assert name == "cond"
    assert not any(node.name.startswith(("stack_", "combine_", "update_")) for node in model.graph.node)


def test_the_examples_are_tensors_of_their_own(student: TorchDenoiser) -> None:
    """One tensor given twice is one input to torch, and the graph would compute with one of the two only."""
    examples = compose.example_inputs(student)
    assert len({tensor.data_ptr() for tensor in examples.values()}) == len(examples)


def test_names_of_a_part_that_are_not_bound_get_its_prefix() -> None:
    part = helper.make_graph(
        [
            helper.make_node("Add", ["a", "one"], ["sum"], name="add"),
            helper.make_node("Neg", ["sum"], ["b"], name="neg"),
        ],
        "part",
        [helper.make_tensor_value_info("a", onnx.TensorProto.FLOAT, ["batch"])],
        [helper.make_tensor_value_info("b", onnx.TensorProto.FLOAT, ["batch"])],
        initializer=[helper.make_tensor("one", onnx.TensorProto.FLOAT, [1], [1.0])],
    )
    graph = onnx.GraphProto()
    assert compose.inline(graph, part, "first_", {"a": "x"}) == ["first_b"]
    assert compose.inline(graph, part, "second_", {"a": "first_b", "b": "y"}) == ["y"]
    assert [(node.name, list(node.input), list(node.output)) for node in graph.node] == [
        ("first_add", ["x", "first_one"], ["first_sum"]),
        ("first_neg", ["first_sum"], ["first_b"]),
        ("second_add", ["first_b", "second_one"], ["second_sum"]),
        ("second_neg", ["second_sum"], ["y"]),
    ]
    assert [tensor.name for tensor in graph.initializer] == ["first_one", "second_one"]
