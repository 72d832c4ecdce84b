"""The whole DDIM sampler as one ONNX graph, made from the step's graph: a Loop over it, or a copy for each step.

noise (B, C, H, W) float32, y (B,) int64, w (B, N) float32 -> images (B, C, H, W), float32 or uint8.
The timesteps are constants; w holds each image's guidance at each step, so a constant, TAG and an interval are
all expressed by it, and one batch may mix them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from dashdeploy.export.graph.graphs import SAMPLER_INPUTS, SAMPLER_OUTPUT

NOISE, LABELS, WEIGHTS = SAMPLER_INPUTS
PREFIX = "sampler_"


def assemble(step: onnx.ModelProto, timesteps: Sequence[int], *, form: str, output: str = "float32") -> onnx.ModelProto:
    """A new model; `step` (weights inside) is left as it is.

    Args:
        timesteps: descending; after the last comes the clean image (t_prev = −1).
        form: loop or unrolled.
        output: float32, or uint8 with [−1, 1] -> 0..255 rounded to nearest.
    """
    shape = [d.dim_value for d in step.graph.input[0].type.tensor_type.shape.dim][1:]
    steps = len(timesteps)
    graph = onnx.GraphProto(name="sampler")
    graph.input.extend(
        [
            helper.make_tensor_value_info(NOISE, TensorProto.FLOAT, ["batch", *shape]),
            helper.make_tensor_value_info(LABELS, TensorProto.INT64, ["batch"]),
            helper.make_tensor_value_info(WEIGHTS, TensorProto.FLOAT, ["batch", steps]),
        ]
    )
    _constant(graph, "timesteps", np.asarray(timesteps, np.int64))
    _constant(graph, "previous", np.asarray([*timesteps[1:], -1], np.int64))
    graph.node.append(helper.make_node("Shape", [LABELS], [PREFIX + "batch"], name=PREFIX + "batch_size"))
    if form == "loop":
        last = _loop(graph, step, steps, shape)
    else:
        last = NOISE
        graph.initializer.extend(step.graph.initializer)
        for i in range(steps):
            index = _constant(graph, f"index_{i}", np.asarray(i, np.int64))
            nodes, last = _one_step(step.graph, f"step{i}_", index, last)
            graph.node.extend(nodes)
    _finish(graph, last, output)
    kind = TensorProto.UINT8 if output == "uint8" else TensorProto.FLOAT
    graph.output.append(helper.make_tensor_value_info(SAMPLER_OUTPUT, kind, ["batch", *shape]))
    model = helper.make_model(graph, opset_imports=step.opset_import, producer_name=step.producer_name)
    model.ir_version = step.ir_version
    model.functions.extend(step.functions)
    return model


def _constant(graph: onnx.GraphProto, name: str, value: np.ndarray) -> str:
    graph.initializer.append(numpy_helper.from_array(value, PREFIX + name))
    return PREFIX + name


def _loop(graph: onnx.GraphProto, step: onnx.ModelProto, steps: int, shape: list[int]) -> str:
    """The weights are in the body: ONNX Runtime packs only the weights of the graph that uses them, and a loop over
    weights outside of it took more than twice as long.
    """
    nodes, last = _one_step(step.graph, "", PREFIX + "i", PREFIX + "x")
    keep = PREFIX + "continue"
    body = helper.make_graph(
        [*nodes, helper.make_node("Identity", [keep], [keep + "_out"], name=keep)],
        "one_step",
        [
            helper.make_tensor_value_info(PREFIX + "i", TensorProto.INT64, []),
            helper.make_tensor_value_info(keep, TensorProto.BOOL, []),
            helper.make_tensor_value_info(PREFIX + "x", TensorProto.FLOAT, ["batch", *shape]),
        ],
        [
            helper.make_tensor_value_info(keep + "_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info(last, TensorProto.FLOAT, ["batch", *shape]),
        ],
        initializer=step.graph.initializer,
    )
    count = _constant(graph, "count", np.asarray(steps, np.int64))
    true = _constant(graph, "true", np.asarray(True))
    graph.node.append(
        helper.make_node("Loop", [count, true, NOISE], [PREFIX + "last"], name=PREFIX + "loop", body=body)
    )
    return PREFIX + "last"


def _one_step(step: onnx.GraphProto, prefix: str, index: str, x: str) -> tuple[list[onnx.NodeProto], str]:
    """The step's nodes with its inputs bound to this step's values; returns them and the name of x at t_prev."""
    step_inputs = {"t": prefix + "t_i", "t_prev": prefix + "t_prev_i", "w": prefix + "w_i"}
    nodes = [
        helper.make_node("Gather", [WEIGHTS, index], [step_inputs["w"]], name=prefix + "gather_w", axis=1),
    ]
    for name, table in (("t", "timesteps"), ("t_prev", "previous")):
        value = f"{prefix}{name}_one"
        nodes.append(helper.make_node("Gather", [PREFIX + table, index], [value], name=f"{prefix}gather_{name}"))
        nodes.append(
            helper.make_node("Expand", [value, PREFIX + "batch"], [step_inputs[name]], name=f"{prefix}expand_{name}")
        )
    weights = {tensor.name for tensor in step.initializer}
    bound = {"x": x, "y": LABELS, **step_inputs}

    def renamed(name: str) -> str:
        return bound.get(name) or (name if not name or name in weights else prefix + name)

    for node in step.node:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.name = prefix + node.name
        copy.input[:] = [renamed(name) for name in node.input]
        copy.output[:] = [renamed(name) for name in node.output]
        nodes.append(copy)
    return nodes, renamed(step.output[0].name)


def _finish(graph: onnx.GraphProto, last: str, output: str) -> None:
    """float32: as it is, because the step has clipped what is to be clipped. uint8: round((x + 1)·127.5), saturated."""
    if output == "float32":
        graph.node.append(helper.make_node("Identity", [last], [SAMPLER_OUTPUT], name=PREFIX + "images"))
        return
    low, high = _constant(graph, "low", np.asarray(-1, np.float32)), _constant(graph, "high", np.asarray(1, np.float32))
    half = _constant(graph, "half_range", np.asarray(127.5, np.float32))
    chain = [("Clip", [last, low, high]), ("Add", ["", high]), ("Mul", ["", half]), ("Round", [""])]
    value = last
    for i, (kind, inputs) in enumerate(chain):
        result = f"{PREFIX}pixel_{i}"
        graph.node.append(helper.make_node(kind, [name or value for name in inputs], [result], name=result))
        value = result
    graph.node.append(
        helper.make_node("Cast", [value], [SAMPLER_OUTPUT], name=PREFIX + "to_uint8", to=TensorProto.UINT8)
    )
