"""The guided, cond and step graphs of a student: its network, which torch traces once, between small traced parts.

Tracing takes seconds for the smallest network and minutes for a large one. Composed, all graphs have the same nodes and
weights under the same names, and the arithmetic around the network is still traced from the code that torch runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import onnx
import torch
from torch import nn

from dashdeploy.artifact import SIGNATURES, GraphName, output_name
from dashdeploy.diffusion import guidance
from dashdeploy.diffusion.denoiser import TorchDenoiser
from dashdeploy.export.graph import onnx_file
from dashdeploy.export.graph.graphs import Combine, Network, Stack, Update

COMPOSED: tuple[GraphName, ...] = ("guided", "cond", "step")
"""What `student_graphs` makes, in order. The sampler is not here: `sampler_graph` makes it from the step's graph."""


@dataclass(frozen=True)
class Part:
    """A traced module, and the names that its inputs and outputs have in the graph that it becomes a part of.

    Attributes:
        prefix: of everything else in it.
    """

    model: onnx.ModelProto
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    prefix: str = ""


def student_graphs(
    denoiser: TorchDenoiser, names: Sequence[GraphName], *, clip_sample: bool, opset: int
) -> Iterator[tuple[GraphName, onnx.ModelProto]]:
    """The graphs `names` of COMPOSED, one after another, each a model of its own with its weights in memory.

    Args:
        denoiser: what `rewrite.for_export` has made.
        clip_sample: the step graph's.

    Raises:
        UserError: torch cannot export the network, or its batch came out fixed.
    """
    interface, examples = denoiser.interface, example_inputs(denoiser)

    def traced(module: nn.Module, inputs: Sequence[str], outputs: Sequence[str]) -> onnx.ModelProto:
        given = tuple(examples[name] for name in inputs)
        batches = [len(tensor) // len(examples["x"]) for tensor in given]
        return onnx_file.trace(module, given, inputs=inputs, outputs=outputs, opset=opset, batches=batches)

    two = interface.branches == 2
    around: dict[str, onnx.ModelProto] = {}
    network = traced(Network(denoiser), ("x", "t", "y") if two else ("x", "t", "y", "w"), ("predicted",))
    if two and set(names) != {"cond"}:
        around["stack"] = traced(Stack(interface), ("x", "t", "y"), ("x2", "t2", "y2"))
        around["combine"] = traced(Combine(), ("both", "w"), ("guided",))
    if "step" in names:
        update = Update(interface, clip_sample=clip_sample)
        around["update"] = traced(update, ("x", "guided", "t", "t_prev"), ("x_prev",))

    def guided_parts(output: str) -> list[Part]:
        if not two:
            return [Part(network, ("x", "t", "y", "w"), (output,))]
        return [
            Part(around["stack"], ("x", "t", "y"), ("x2", "t2", "y2"), "stack_"),
            Part(network, ("x2", "t2", "y2"), ("both",)),
            Part(around["combine"], ("both", "w"), (output,), "combine_"),
        ]

    for name in names:
        inputs, output = SIGNATURES[name][0], output_name(name, interface.prediction)
        if name == "cond":
            parts = [Part(network, inputs, (output,))]
        elif name == "guided":
            parts = guided_parts(output)
        else:
            parts = [
                *guided_parts("guided"),
                Part(around["update"], ("x", "guided", "t", "t_prev"), (output,), "update_"),
            ]
        yield name, joined(parts, inputs, output)


def joined(parts: Sequence[Part], inputs: Sequence[str], output: str) -> onnx.ModelProto:
    """One model of parts in the order in which they run, with these of their inputs and outputs as its own."""
    graph = onnx.GraphProto(name=parts[0].model.graph.name)
    described: dict[str, onnx.ValueInfoProto] = {}
    for part in parts:
        inner, names = part.model.graph, (*part.inputs, *part.outputs)
        values = [*inner.input, *inner.output]
        inline(graph, inner, part.prefix, dict(zip((value.name for value in values), names, strict=True)))
        for name, value in zip(names, values, strict=True):
            described.setdefault(name, value)
    for name, among in [*((name, graph.input) for name in inputs), (output, graph.output)]:
        value = among.add()
        value.CopyFrom(described[name])
        value.name = name
    return model_of(graph, [part.model for part in parts])


def model_of(graph: onnx.GraphProto, parts: Sequence[onnx.ModelProto]) -> onnx.ModelProto:
    """A model of a graph that was made of the nodes of `parts`: their opset, version and functions."""
    first = parts[0]
    model = onnx.helper.make_model(graph, opset_imports=first.opset_import, producer_name=first.producer_name)
    model.ir_version = first.ir_version
    known: set[str] = set()
    for part in parts:
        model.functions.extend(function for function in part.functions if function.name not in known)
        known |= {function.name for function in part.functions}
    return model


def inline(graph: onnx.GraphProto, part: onnx.GraphProto, prefix: str, bound: dict[str, str]) -> list[str]:
    """A part's nodes and weights at the end of a graph; returns the names of its outputs there.

    Args:
        prefix: of every name that is not in `bound`.
        bound: names in the part, of inputs or outputs, and what they are called in the graph.
    """

    def renamed(name: str) -> str:
        return bound.get(name) or (name and prefix + name)

    for tensor in part.initializer:
        weight = graph.initializer.add()
        weight.CopyFrom(tensor)
        weight.name = renamed(tensor.name)
    graph.node.extend(copied(node, prefix, renamed) for node in part.node)
    return [renamed(tensor.name) for tensor in part.output]


def copied(node: onnx.NodeProto, prefix: str, renamed: Callable[[str], str]) -> onnx.NodeProto:
    """A node under another name, and with its inputs and outputs renamed."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.name = prefix + node.name
    copy.input[:] = [renamed(name) for name in node.input]
    copy.output[:] = [renamed(name) for name in node.output]
    return copy


def example_inputs(denoiser: TorchDenoiser, *, batch_size: int = 4) -> dict[str, torch.Tensor]:
    """Inputs of the right shapes and types to trace with, by name; torch takes one tensor given twice for one input."""
    interface = denoiser.interface
    t = torch.arange(batch_size) * (interface.schedule.num_train_timesteps // batch_size)
    image, y = torch.zeros((batch_size, *interface.image_shape)), torch.arange(batch_size) % interface.num_classes
    return {
        "x": image,
        "both": guidance.stack(image, t, y, null_class=interface.null_class)[0],
        "guided": image.clone(),
        "t": t,
        "t_prev": t - 1,
        "y": y,
        "w": torch.full((batch_size,), 2.0),
    }
