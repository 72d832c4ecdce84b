"""TensorRT's refusals, from graphs that it really refuses, told as node, torch module and what to change."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from dashdeploy.errors import UserError
from dashdeploy.export.engine import errors as engine_errors
from dashdeploy.export.engine.build import build
from dashdeploy.export.graph.onnx_file import MODULE_OF_NODE
from dashdeploy.target import Engine, Profile

needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None or importlib.util.find_spec("polygraphy") is None,
    reason="needs tensorrt_rtx and polygraphy",
)
FLOAT = TensorProto.FLOAT
EYE = np.eye(4, dtype=np.float32)


def node(operator: str, inputs: Sequence[str], outputs: Sequence[str], *, module: str = "unet.mid", **options: Any):
    """A node as torch.onnx leaves it: with the modules that it came from."""
    made = helper.make_node(operator, inputs, outputs, name=f"node_{operator}", **options)
    note = made.metadata_props.add()
    note.key, note.value = MODULE_OF_NODE, repr(["", "unet", module, "operation"])
    return made


def save(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    *,
    weights: dict[str, np.ndarray] | None = None,
    shape: Sequence[int | str] = ("batch", 4),
    out: Sequence[int | str] | None = None,
    kinds: tuple[int, int] = (FLOAT, FLOAT),
    opset: int = 20,
    domain: str | None = None,
) -> Path:
    """A graph from x to o."""
    graph = helper.make_graph(
        nodes,
        "main",
        [helper.make_tensor_value_info("x", kinds[0], shape)],
        [helper.make_tensor_value_info("o", kinds[1], out or shape)],
        initializer=[numpy_helper.from_array(value, name) for name, value in (weights or {}).items()],
    )
    opsets = [helper.make_opsetid("", opset)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


def refusal(path: Path, config: Engine | None = None) -> str:
    """What is said of a graph that cannot be built."""
    config = config or Engine(compute_capabilities=("8.9",))
    folder = path.parent
    with pytest.raises(UserError) as error:
        build(path, folder / "plan", config, flavour="tensorrt_rtx", precision="fp32", cache=folder / "cache")
    assert not (folder / "plan").exists()
    text = str(error.value)
    assert "\n" not in text and "/_src/" not in text and "CUDA driver" not in text
    return text


def product(path: Path, **options: Any) -> Path:
    """A matrix product, which TensorRT takes."""
    return save(path, [node("MatMul", ["x", "w"], ["o"])], weights={"w": EYE}, **options)


def attention(path: Path, *, shared: bool) -> Path:
    """Self-attention by ONNX's Attention, in float32, of one projection for all of q, k and v, or of three."""
    names = ["q", "q", "q"] if shared else ["q", "k", "v"]
    nodes = [helper.make_node("MatMul", ["x", f"w{n}"], [n], name=f"to_{n}") for n in dict.fromkeys(names)]
    nodes.append(node("Attention", names, ["z"], module="unet.mid.attentions.0"))
    nodes.append(helper.make_node("MatMul", ["z", "wq"], ["o"], name="after"))
    weights = {f"w{n}": np.full((8, 8), i + 1, np.float32) for i, n in enumerate("qkv") if n in names}
    return save(path, nodes, weights=weights, shape=["batch", 2, 16, 8], opset=23)


@needs_rtx
def test_attention_of_opset_23_in_float32(tmp_path: Path) -> None:
    text = refusal(attention(tmp_path / "g.onnx", shared=False))
    assert "node_Attention' (Attention) of torch module unet.mid.attentions.0" in text
    assert "no attention kernel" in text and "lower the target's opset to 22" in text


@needs_rtx
def test_a_graph_that_crashes_the_builder(tmp_path: Path) -> None:
    # 1.7.1 dies of this one; a version that refuses it, as it does the graph above, says why.
    text = refusal(attention(tmp_path / "g.onnx", shared=True))
    assert "was killed by SIGSEGV" in text or "no attention kernel" in text
    assert "opset" in text


@needs_rtx
@pytest.mark.parametrize(("kind", "zero"), [(np.uint8, 128), (np.int8, 3)])
def test_quantization_with_zero_points(tmp_path: Path, kind: Any, zero: int) -> None:
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"], module="unet.conv_in"),
        node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        node("MatMul", ["d", "w"], ["o"]),
    ]
    weights = {"w": EYE, "s": np.asarray(0.1, np.float32), "z": np.asarray(zero, kind)}
    text = refusal(save(tmp_path / "g.onnx", nodes, weights=weights))
    assert "(QuantizeLinear) of torch module unet.conv_in" in text
    assert "quantization is asymmetric" in text and "symmetric int8 activations" in text


@needs_rtx
def test_quantized_biases(tmp_path: Path) -> None:
    bias = node("DequantizeLinear", ["conv.bias_quantized", "s", "z"], ["b"])
    nodes = [bias, node("Add", ["x", "b"], ["o"])]
    weights = {
        "conv.bias_quantized": np.ones(4, np.int32),
        "s": np.asarray(0.1, np.float32),
        "z": np.asarray(0, np.int32),
    }
    text = refusal(save(tmp_path / "g.onnx", nodes, weights=weights))
    assert "node_DequantizeLinear" in text and "QuantizeBias" in text


@needs_rtx
@pytest.mark.parametrize(("operator", "domain"), [("FancyOp", "my.domain"), ("DeformConv", None)])
def test_operators_that_tensorrt_does_not_have(tmp_path: Path, operator: str, domain: str | None) -> None:
    inputs = ["x", "x", "x"] if operator == "DeformConv" else ["x"]
    made = node(operator, inputs, ["o"], module="unet.down_blocks.0", **({"domain": domain} if domain else {}))
    text = refusal(save(tmp_path / "g.onnx", [made], domain=domain))
    assert f"'node_{operator}' ({operator}) of torch module unet.down_blocks.0" in text
    assert "no such operator" in text and "opset 22 or 20" in text


@needs_rtx
def test_types_that_do_not_go_together(tmp_path: Path) -> None:
    mixed = save(tmp_path / "a.onnx", [node("MatMul", ["x", "w"], ["o"])], weights={"w": EYE.astype(np.float16)})
    assert "'node_MatMul' (MatMul) of torch module unet.mid" in (text := refusal(mixed))
    assert "cast to one type" in text
    kinds = (TensorProto.INT64, TensorProto.INT64)
    integers = save(
        tmp_path / "b.onnx", [node("MatMul", ["x", "w"], ["o"])], weights={"w": np.eye(4, dtype=np.int64)}, kinds=kinds
    )
    assert "INT64" in (text := refusal(integers)) and "cast to one type" in text


@needs_rtx
def test_a_profile_that_the_graph_cannot_run_at(tmp_path: Path) -> None:
    # TensorRT only warns of it, and writes an engine that fails at its first run.
    nodes = [node("MatMul", ["x", "w"], ["y"]), node("Reshape", ["y", "shape"], ["o"], module="unet.norm")]
    path = save(
        tmp_path / "g.onnx",
        nodes,
        weights={"w": EYE, "shape": np.asarray([-1, 8])},
        out=("batch", 8),
    )
    text = refusal(path, Engine(profiles=(Profile(min=1, opt=2, max=2),), compute_capabilities=("8.9",)))
    assert "'node_Reshape' (Reshape) of torch module unet.norm" in text
    assert "profile" in text and "lower the profile's max in engine.profiles" in text


@needs_rtx
def test_a_batch_that_is_fixed(tmp_path: Path) -> None:
    text = refusal(product(tmp_path / "g.onnx", shape=(2, 4)))
    assert "tensor x has shape [2, 4]; expected a dynamic batch" in text
    assert "only dynamic dimension" in refusal(product(tmp_path / "h.onnx", shape=("batch", "rows", 4)))


@needs_rtx
def test_too_little_workspace(tmp_path: Path) -> None:
    channels = 64
    image = ["batch", channels, 32, 32]
    weights = {f"w{i}": np.ones((channels, channels, 3, 3), np.float32) for i in range(2)}
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["y"], name="first", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["y"], ["r"], name="relu"),
        helper.make_node("Conv", ["r", "w1"], ["o"], name="second", pads=[1, 1, 1, 1]),
    ]
    path = save(tmp_path / "g.onnx", nodes, weights=weights, shape=image)
    text = refusal(path, Engine(compute_capabilities=("8.9",), workspace_mib=1, profiles=(Profile(max=4096),)))
    assert "raise engine.workspace_mib" in text


@needs_rtx
def test_turing_without_kernels_for_a_precision(tmp_path: Path) -> None:
    nodes = [
        node("Cast", ["x"], ["h"], to=TensorProto.BFLOAT16),
        node("MatMul", ["h", "w"], ["y"]),
        helper.make_node("Cast", ["y"], ["o"], name="back", to=TensorProto.FLOAT),
    ]
    path = save(tmp_path / "g.onnx", nodes)
    model = onnx.load(path)
    model.graph.initializer.append(helper.make_tensor("w", TensorProto.BFLOAT16, [4, 4], EYE.ravel().tolist()))
    onnx.save(model, path)
    config = Engine(compute_capabilities=("7.5",))
    with pytest.raises(UserError, match=r"7\.5 .*leave 7\.5 out"):
        build(path, tmp_path / "p", config, flavour="tensorrt_rtx", precision="bf16", cache=tmp_path / "cache")


@needs_rtx
def test_a_file_that_is_not_whole(tmp_path: Path) -> None:
    path = product(tmp_path / "g.onnx")
    path.write_bytes(path.read_bytes()[:60])
    assert "not whole" in (text := refusal(path)) and "export it again" in text


def errors(text: str, node_name: str = "", operator: str = "", code: str = "") -> list[dict[str, str]]:
    return [{"node": node_name, "operator": operator, "code": code, "text": text}]


def test_an_unknown_cause_still_says_what_tensorrt_said_and_what_to_try(tmp_path: Path) -> None:
    made = engine_errors.translate("build", errors("the sky fell"), tmp_path / "g.onnx", title="TensorRT 11", graph={})
    assert str(made).startswith("TensorRT 11 cannot build g.onnx: it said 'the sky fell'.")
    assert "try another opset" in str(made)
    assert "gave no reason" in str(engine_errors.translate("build", [], tmp_path / "g.onnx", title="T", graph={}))


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        (
            "Error Code 10: Could not find any implementation for node conv. could not find any implementation",
            "workspace_mib",
        ),
        ("Unable to load library: libnvinfer_lean.so.1: cannot open shared object file", "tensorrt-lean"),
        ("MyelinCheckException: graph_jit.cpp:278: CHECK(status == CUDA_SUCCESS) failed.", "build on the GPU"),
    ],
)
def test_causes_that_only_a_gpu_or_another_library_shows(text: str, advice: str, tmp_path: Path) -> None:
    assert advice in str(engine_errors.translate("build", errors(text), tmp_path / "g.onnx", title="T", graph={}))


def test_nodes_know_their_module_by_their_note_or_by_their_weight(tmp_path: Path) -> None:
    plain = helper.make_node("MatMul", ["x", "unet.proj.weight"], ["y"], name="by_weight")
    dequantized = helper.make_node("DequantizeLinear", ["unet.out.weight_quantized", "s"], ["w"], name="dq")
    user = helper.make_node("MatMul", ["z", "w"], ["o"], name="by_quantized_weight")
    nodes = [plain, node("Relu", ["y"], ["z"], module="unet.act"), dequantized, user]
    weights = {
        "unet.proj.weight": EYE,
        "unet.out.weight_quantized": EYE.astype(np.int8),
        "s": np.asarray(1, np.float32),
    }
    path = save(tmp_path / "g.onnx", nodes, weights=weights)
    assert {name: node.module for name, node in engine_errors.nodes(path).items()} == {
        "by_weight": "unet.proj",
        "node_Relu": "unet.act",
        "dq": "unet.out",
        "by_quantized_weight": "unet.out",
    }
    assert engine_errors.nodes(tmp_path / "missing.onnx") == {}
