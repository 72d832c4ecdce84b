"""The whole sampler as one ONNX graph, made from the step's graph: a Loop over it, or a copy for each step.

It is DDIM, or the consistency sampler, which goes to x_0 at each step and adds fresh noise before the next
(`sampling.Plan.renoise`).

noise (B, C, H, W) float32, of the consistency sampler (B, N, C, H, W), y (B,) int64, w (B, N) float32 ->
images (B, C, H, W), float32 or uint8. The timesteps are constants; w holds each image's guidance at each step, so a
constant, TAG and an interval are all expressed by it, and one batch may mix them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from dashdeploy.artifact import SIGNATURES
from dashdeploy.export.graph.compose import copied, inline, model_of

(NOISE, LABELS, WEIGHTS), SAMPLER_OUTPUT = SIGNATURES["sampler"]
PREFIX, DECODER = "sampler_", "decoder_"
KINDS = {"float32": TensorProto.FLOAT, "uint8": TensorProto.UINT8}


def assemble(
    step: onnx.ModelProto,
    timesteps: Sequence[int],
    *,
    form: str,
    output: str = "float32",
    renoise: np.ndarray | None = None,
    decoder: onnx.ModelProto | None = None,
) -> onnx.ModelProto:
    """A new model; `step` (weights inside) is left as it is.

    Args:
        timesteps: descending; after the last comes the clean image (t_prev = −1).
        form: loop or unrolled.
        output: float32, or uint8 with [−1, 1] -> 0..255 rounded to nearest.
        renoise: of the consistency sampler, `alphas_cumprod_from_clean` (T + 1,) float32. None: DDIM.
        decoder: the graph that makes images of the last latents, in float32. None: the sampler ends without.
    """
    shape = _sides(step.graph.input[0])
    steps = len(timesteps)
    graph = onnx.GraphProto(name="sampler")
    graph.input.extend(
        [
            helper.make_tensor_value_info(
                NOISE, TensorProto.FLOAT, ["batch", *([] if renoise is None else [steps]), *shape]
            ),
            helper.make_tensor_value_info(LABELS, TensorProto.INT64, ["batch"]),
            helper.make_tensor_value_info(WEIGHTS, TensorProto.FLOAT, ["batch", steps]),
        ]
    )
    _constant(graph, "timesteps", np.asarray(timesteps, np.int64))
    after = [*timesteps[1:], -1]
    _constant(graph, "previous", np.asarray(after if renoise is None else [-1] * steps, np.int64))
    start = NOISE if renoise is None else _noise_tables(graph, renoise[np.asarray(after) + 1])
    graph.node.append(helper.make_node("Shape", [LABELS], [PREFIX + "batch"], name=PREFIX + "batch_size"))
    if form == "loop":
        last = _loop(graph, step, start, steps, shape)
    else:
        last = start
        graph.initializer.extend(step.graph.initializer)
        for i in range(steps):
            index = _constant(graph, f"index_{i}", np.asarray(i, np.int64))
            nodes, last = _one_step(step.graph, f"step{i}_", index, last, renoises=start != NOISE)
            graph.node.extend(nodes)
    if decoder is not None:
        last = _append(graph, decoder.graph, last)
        shape = _sides(decoder.graph.output[0])
    _finish(graph, last, output)
    graph.output.append(helper.make_tensor_value_info(SAMPLER_OUTPUT, KINDS[output], ["batch", *shape]))
    return model_of(graph, [step] if decoder is None else [step, decoder])


def in_bytes(decoder: onnx.ModelProto) -> onnx.ModelProto:
    """A decoder graph that ends in uint8 in place of float32: [−1, 1] as 0..255, rounded to nearest."""
    graph = onnx.GraphProto(name=decoder.graph.name)
    graph.input.extend(decoder.graph.input)
    _finish(graph, _append(graph, decoder.graph, decoder.graph.input[0].name), "uint8")
    sides = _sides(decoder.graph.output[0])
    graph.output.append(helper.make_tensor_value_info(SAMPLER_OUTPUT, TensorProto.UINT8, ["batch", *sides]))
    return model_of(graph, [decoder])


def timesteps_of(model: onnx.ModelProto) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(timesteps, where each step goes to) that a sampler graph holds."""
    held = {tensor.name: tensor for tensor in model.graph.initializer}
    both = (numpy_helper.to_array(held[PREFIX + name]).tolist() for name in ("timesteps", "previous"))
    timesteps, previous = (tuple(values) for values in both)
    return timesteps, previous


def _sides(tensor: onnx.ValueInfoProto) -> list[int]:
    return [dim.dim_value for dim in tensor.type.tensor_type.shape.dim][1:]


def _append(graph: onnx.GraphProto, decoder: onnx.GraphProto, latents: str) -> str:
    """The decoder's nodes and weights after `latents`, under names of their own; returns the name of its output."""
    return inline(graph, decoder, DECODER, {decoder.input[0].name: latents})[0]


def _constant(graph: onnx.GraphProto, name: str, value: np.ndarray) -> str:
    graph.initializer.append(numpy_helper.from_array(value, PREFIX + name))
    return PREFIX + name


def _noise_tables(graph: onnx.GraphProto, alpha_bar: np.ndarray) -> str:
    """What takes x_0 to the next timestep, by step: its factor, that of the noise, and which noise; returns the start.

    After the last step, where ᾱ is 1, x_0 is multiplied by 1 and the noise by 0.
    """
    _constant(graph, "signal", np.sqrt(alpha_bar))
    _constant(graph, "sigma", np.sqrt(np.float32(1) - alpha_bar))
    _constant(graph, "fresh", np.minimum(np.arange(len(alpha_bar)) + 1, len(alpha_bar) - 1))
    first = _constant(graph, "first", np.asarray(0, np.int64))
    graph.node.append(helper.make_node("Gather", [NOISE, first], [PREFIX + "start"], name=PREFIX + "start", axis=1))
    return PREFIX + "start"


def _loop(graph: onnx.GraphProto, step: onnx.ModelProto, start: str, steps: int, shape: list[int]) -> str:
    """The weights are in the body: ONNX Runtime packs only the weights of the graph that uses them, and a loop over
    weights outside of it took more than twice as long.
    """
    nodes, last = _one_step(step.graph, "", PREFIX + "i", PREFIX + "x", renoises=start != NOISE)
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
        helper.make_node("Loop", [count, true, start], [PREFIX + "last"], name=PREFIX + "loop", body=body)
    )
    return PREFIX + "last"


def _one_step(
    step: onnx.GraphProto, prefix: str, index: str, x: str, *, renoises: bool
) -> tuple[list[onnx.NodeProto], str]:
    """The step's nodes with its inputs bound to this step's values; returns them and the name of the next x."""
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
        nodes.append(copied(node, prefix, renamed))
    last = renamed(step.output[0].name)
    return (nodes, last) if not renoises else ([*nodes, *_renoise(prefix, index, last)], prefix + "renoised")


def _renoise(prefix: str, index: str, x_0: str) -> list[onnx.NodeProto]:
    """signal·x_0 + sigma·noise[:, fresh], with this step's values of the tables -> renoised."""

    def node(kind: str, inputs: list[str], output: str, **attributes: Any) -> onnx.NodeProto:
        return helper.make_node(kind, inputs, [prefix + output], name=prefix + output, **attributes)

    return [
        *(node("Gather", [PREFIX + table, index], f"{table}_i") for table in ("signal", "sigma", "fresh")),
        node("Gather", [NOISE, prefix + "fresh_i"], "noise_i", axis=1),
        node("Mul", [x_0, prefix + "signal_i"], "image_part"),
        node("Mul", [prefix + "noise_i", prefix + "sigma_i"], "noise_part"),
        node("Add", [prefix + "image_part", prefix + "noise_part"], "renoised"),
    ]


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
