from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from dashdeploy import manifest
from dashdeploy.artifact import SIGNATURES, Student
from dashdeploy.errors import UserError
from dashdeploy.export.graph import onnx_file
from dashdeploy.stages import read_stage
from dashdeploy.teachers import formats


@pytest.fixture(scope="module")
def model(tiny_run: Path) -> onnx.ModelProto:
    return onnx.load(tiny_run / "artifacts" / "onnx-cpu" / "guided.onnx")


def test_the_graph_has_the_promised_inputs_and_output_with_a_symbolic_batch(model: onnx.ModelProto) -> None:
    kinds = {onnx.TensorProto.FLOAT: "float32", onnx.TensorProto.INT64: "int64"}
    found = {
        t.name: (
            kinds[t.type.tensor_type.elem_type],
            [d.dim_param or d.dim_value for d in t.type.tensor_type.shape.dim],
        )
        for t in [*model.graph.input, *model.graph.output]
    }
    image = ["batch", 1, 8, 8]
    assert found == {
        "x": ("float32", image),
        "t": ("int64", ["batch"]),
        "y": ("int64", ["batch"]),
        "w": ("float32", ["batch"]),
        "eps": ("float32", image),
    }


def test_it_is_one_file_at_opset_22(model: onnx.ModelProto, tiny_run: Path) -> None:
    assert [o.version for o in model.opset_import if o.domain == ""] == [22]
    assert sorted(p.name for p in (tiny_run / "artifacts" / "onnx-cpu").iterdir()) == [
        *("cond.onnx", "guided.onnx", "manifest.json", "manifest.json.sha256", "sampler.onnx", "step.onnx")
    ]


def test_the_model_describes_itself(model: onnx.ModelProto, tiny_run: Path) -> None:
    metadata = {p.key.removeprefix(onnx_file.METADATA_PREFIX): json.loads(p.value) for p in model.metadata_props}
    assert metadata.pop("graph") == "guided"
    assert metadata.keys() == Student.model_fields.keys() | {"sampling"}
    student = Student.model_validate(metadata)
    assert student.num_classes == student.null_class == 10
    assert student.student_sha256 == read_stage(tiny_run / "student").sha256
    artifact = manifest.read(read_stage(tiny_run / "artifacts" / "onnx-cpu")).artifact
    assert student == Student.model_validate({name: getattr(artifact, name) for name in Student.model_fields})


class Chunked(nn.Module):
    """The trap: torch.chunk on the stacked batch makes torch specialise on the example's size."""

    def forward(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        a, b = torch.cat([x, x]).chunk(2)
        return a + w[0] * b.reshape(4, 1, 8, 8) + t.sum() + y.sum()


def test_a_graph_whose_batch_came_out_fixed_is_refused() -> None:
    example = (torch.zeros(4, 1, 8, 8), torch.zeros(4).long(), torch.zeros(4).long(), torch.ones(4))
    with pytest.raises(UserError, match=r"batch is fixed|torch.onnx.export failed"):
        onnx_file.trace(Chunked(), example, inputs=SIGNATURES["guided"][0], outputs=["eps"], opset=22)


def test_a_fixed_batch_dimension_is_named() -> None:
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [4, 1])
    out = onnx.helper.make_tensor_value_info("eps", onnx.TensorProto.FLOAT, ["batch", 1])
    graph = onnx.helper.make_graph([], "g", [value], [out])
    with pytest.raises(UserError, match="x: 4"):
        onnx_file.assert_dynamic_batch(onnx.helper.make_model(graph))


def test_weights_past_the_limit_go_into_a_file_beside_the_graph(tmp_path: Path) -> None:
    model = onnx_file.trace(nn.Linear(8, 64), (torch.zeros(4, 8),), inputs=["x"], outputs=["eps"], opset=22)
    path = onnx_file.save(model, tmp_path / "model.onnx", metadata={}, single_file_mb=0)
    assert path.with_name("model.onnx.data").is_file()


def test_no_local_path_is_left_in_the_file_and_nodes_still_name_their_module(model: onnx.ModelProto) -> None:
    text = model.SerializeToString()
    assert b"site-packages" not in text
    assert str(Path.home()).encode() + b"/" not in text
    notes = [p.value for node in model.graph.node for p in node.metadata_props if p.key == onnx_file.MODULE_OF_NODE]
    assert any("down_blocks.0.resnets.0" in note for note in notes)


@pytest.fixture(scope="module")
def convolutions(tiny_run: Path) -> int:
    unet = formats.load(tiny_run / "student", role="student").unet
    return sum(isinstance(module, nn.Conv2d) for module in unet.modules())


@pytest.mark.parametrize("asked", ["fp16", "bf16", "int8"])
def test_a_float32_graph_is_never_taken_for_less(model: onnx.ModelProto, convolutions: int, asked: str) -> None:
    assert onnx_file.require_precision(model, "fp32", graph="guided") == {"float": convolutions}
    message = f"{asked} was asked for, and the guided graph's convolutions are: {convolutions} float"
    with pytest.raises(UserError, match=message):
        onnx_file.require_precision(model, asked, graph="guided")


def test_convolutions_inside_of_a_loop_are_counted(tiny_run: Path, convolutions: int) -> None:
    sampler = onnx.load(tiny_run / "artifacts" / "onnx-cpu" / "sampler.onnx")
    assert onnx_file.convolution_types(sampler) == {"float": convolutions}


def test_a_weight_that_the_precision_cannot_hold_is_named_with_its_graph(model: onnx.ModelProto) -> None:
    onnx_file.require_finite(model, graph="guided")
    damaged = onnx.ModelProto()
    damaged.CopyFrom(model)
    bias = next(tensor for tensor in damaged.graph.initializer if tensor.name.endswith("conv_in.bias"))
    half = numpy_helper.to_array(bias).astype(np.float16)
    half[0] = np.inf  # as 70000 becomes
    bias.CopyFrom(numpy_helper.from_array(half, bias.name))
    with pytest.raises(UserError, match=r"the cond graph: weight .*conv_in\.bias holds NaN or Inf.*bf16 or fp32"):
        onnx_file.require_finite(damaged, graph="cond")
