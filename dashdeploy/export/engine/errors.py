"""TensorRT's errors in the user's terms: ONNX node -> torch module -> what to change."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx

from dashdeploy.errors import UserError
from dashdeploy.export.graph.onnx_file import MODULE_OF_NODE

MOST_TEXT = 300
MOST_NAMED = 3
NOISE = (
    r"\[checkMacros.*?\(cudaError 35.*?\)\)?",
    r"\bIn [\w:~()]+ at /_src/\S+",
    r"\[?\w+\.(cpp|h|hpp)(::\w+)?:+\d+(: \w+)?\]?:?",
    r"Assertion failed: ",
    r"\(See https?://\S+[^)]*\)",
)


@dataclass(frozen=True)
class Node:
    """An ONNX node: its operator, and the torch module that it came from, '' where that is not known."""

    operator: str
    module: str


@dataclass(frozen=True)
class Cause:
    """A known failure: a pattern of its message, what it means and what to change.

    operators: the nodes to name when the message names none.
    """

    pattern: str
    meaning: str
    advice: str
    operators: tuple[str, ...] = ()


CAUSES = (
    Cause(
        r"Attention operation was not supported|IAttention",
        "no attention kernel for these types and shapes",
        "lower the target's opset to 22, which exports attention as matrix products and softmax, or use precision fp16",
        ("Attention",),
    ),
    Cause(
        r"shiftIsAllZeros|Non-zero zero point|UINT8 zero_point|asymmetric",
        "TensorRT takes int8 without zero points, and this graph's quantization is asymmetric",
        "quantize with symmetric int8 activations and weights (a target with a tensorrt backend does so)",
    ),
    Cause(
        r"has type Int32 but must have type.*Int8",
        "TensorRT takes int8, and this is an int32 tensor, as quantizers make of biases",
        "quantize without biases (onnxruntime.quantization: extra_options={'QuantizeBias': False})",
    ),
    Cause(
        r"unsupported input type|Unsupported data type|must have same input types|UNSUPPORTED_NODE_DATATYPE|"
        r"not supported data type|Found unsupported",
        "TensorRT has no kernel for this operator with these types",
        "cast to one type of float32, float16 or bfloat16 in the torch module; it computes in no float64 or int64",
    ),
    Cause(
        r"Plugin not found|plugin creator|No importer registered|UNSUPPORTED_NODE\b|unsupported operator",
        "TensorRT has no such operator",
        "export with opset 22 or 20, or rewrite the torch module in operators that TensorRT has",
    ),
    Cause(
        r"not self-consistent",
        "a profile holds batch sizes that the graph cannot run at",
        "lower the profile's max in engine.profiles, and check that the graph's batch is truly dynamic",
    ),
    Cause(
        r"no tactics to implement the operation within workspace limit|insufficient workspace|"
        r"[Oo]ut of memory|OutOfMemory|MEM_ALLOC_FAILED|could not find any implementation",
        "the engine does not fit the memory that it may use",
        "raise engine.workspace_mib (null: no limit), or lower the largest max in engine.profiles",
    ),
    Cause(
        r"Turing|sm75.*HW-specific|HW-specific datatypes",
        "GPUs of compute capability 7.5 have no kernels for this precision",
        "leave 7.5 out of engine.compute_capabilities, or use precision fp16",
    ),
    Cause(
        r"profile.*(dimension|shape)|IOptimizationProfile|setDimensions|expected a dynamic batch",
        "the profiles and the graph's shapes do not fit each other",
        "export the graph with the batch as its only dynamic dimension; check engine.profiles",
    ),
    Cause(
        r"MODEL_DESERIALIZE_FAILED|Failed to parse the ONNX model|cannot be found|Failed to open file",
        "the ONNX file, or the weights beside it, is missing or not whole",
        "export it again",
    ),
    Cause(
        r"libnvinfer_lean|lean runtime",
        "TensorRT's lean runtime is not installed, and version compatible engines carry it",
        "install it with: pip install tensorrt-lean, or set engine.version_compatible: false",
    ),
    Cause(
        r"CUDA_SUCCESS|cudaError|CUDA error|CUDA driver",
        "it needs a CUDA device",
        "build on the GPU that the engine is for",
    ),
)


def nodes(onnx_file: Path) -> dict[str, Node]:
    """Every named node of an ONNX file, those in loop bodies included; {} if it is not an ONNX file."""
    try:
        model = onnx.load(onnx_file, load_external_data=False)
    except Exception:
        return {}
    named: dict[str, Node] = {}
    for graph in _graphs(model.graph):
        weights = {tensor.name for tensor in graph.initializer}
        producers = {name: node for node in graph.node for name in node.output}
        for node in graph.node:
            named[node.name] = Node(node.op_type, _scope(node) or _by_weight(node, weights, producers))
    return named


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _graphs(attribute.g)


def _scope(node: onnx.NodeProto) -> str:
    """The torch module that torch.onnx noted on a node: the last but one of its scopes, whose last is the operation."""
    text = next((p.value for p in node.metadata_props if p.key == MODULE_OF_NODE), "[]")
    try:
        scopes = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return ""
    return str(scopes[-2]) if isinstance(scopes, list) and len(scopes) > 1 else ""


def _by_weight(node: onnx.NodeProto, weights: set[str], producers: Mapping[str, onnx.NodeProto]) -> str:
    """The module that a node's weight belongs to: optimizers and quantizers drop the notes and keep the weights' names.

    A quantized weight comes out of a DequantizeLinear, whose first input is the weight.
    """
    for name in node.input:
        source = producers.get(name)
        if source is not None and source.op_type == "DequantizeLinear":
            name = source.input[0]
        if name in weights and (match := re.match(r"(.+)\.(weight|bias)(_\w+)?$", name)):
            return match[1]
    return ""


def translate(
    stage: str, errors: list[dict[str, str]], onnx_file: Path, *, title: str, graph: Mapping[str, Node] | None = None
) -> UserError:
    """A failed build as one line.

    Args:
        stage: parse, shapes, profile, build or worker.
        errors: as engine_worker sends them: node, operator, code and text, each '' where not known.
        title: the library and its version.
        graph: what `nodes` returns; None: read onnx_file.
    """
    graph = nodes(onnx_file) if graph is None else graph
    first = errors[0] if errors else {"node": "", "operator": "", "code": "", "text": "it gave no reason"}
    everything = " ".join(f"{e['code']} {e['text']}" for e in errors)
    cause = next((c for c in CAUSES if re.search(c.pattern, everything, re.DOTALL)), None)
    doing = {"parse": "read", "shapes": "use", "profile": "run", "worker": "work on"}.get(stage, "build")
    where = _where(first, graph, cause)
    said = _clean(first["text"])
    if cause is None:
        cause = Cause("", "", "try another opset (22, 20) or precision; the message above is TensorRT's own")
    meaning = f"{cause.meaning}; " if cause.meaning else ""
    return UserError(
        f"{title} cannot {doing} {onnx_file.name}{where}: {meaning}it said {said!r}. What to do: {cause.advice}."
    )


def _where(error: dict[str, str], graph: Mapping[str, Node], cause: Cause | None) -> str:
    """', at …' with the node, or the nodes, that failed and their torch modules; '' where nothing is known."""
    names = [error["node"]] if error["node"] else _mentioned(error["text"], graph)
    if not names and cause is not None:
        names = [name for name, node in graph.items() if node.operator in cause.operators]
    if not names:
        return ""
    listed = "; ".join(_title(name, error, graph) for name in names[:MOST_NAMED])
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return f", at {listed}{more}"


def _mentioned(text: str, graph: Mapping[str, Node]) -> list[str]:
    """Nodes that a builder's message names, quoted or before a colon; TensorRT appends numbers to some of the names."""
    words = re.findall(r"'([^']+)'|(?:^|[\s(])([\w./]+):\s", text)
    candidates = [word for pair in words for word in pair if word]
    plain = [re.sub(r"_\d+$", "", word) for word in candidates]
    return list(dict.fromkeys(word for word in [*candidates, *plain] if word in graph))


def _title(name: str, error: dict[str, str], graph: Mapping[str, Node]) -> str:
    node = graph.get(name, Node("", ""))
    operator = node.operator or error["operator"]
    module = f" of torch module {node.module}" if node.module else ""
    return f"ONNX node {name!r} ({operator}){module}" if operator else f"ONNX node {name!r}{module}"


def _clean(text: str) -> str:
    """A message on one line without the places in NVIDIA's sources, and without what it says of a missing driver."""
    for noise in NOISE:
        text = re.sub(noise, " ", text)
    text = " ".join(text.split())
    return text if len(text) <= MOST_TEXT else text[:MOST_TEXT] + "…"
