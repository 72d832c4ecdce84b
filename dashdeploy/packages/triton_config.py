"""config.pbtxt of a Triton model: what the server is told of it, as a protobuf text message."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from dashdeploy.artifact import Artifact, BatchRange, Schedule, TensorSpec
from dashdeploy.errors import UserError
from dashdeploy.packages.schema import Triton
from dashdeploy.target import Profile

Message = dict[str, Any]
TYPES = {"float32": "TYPE_FP32", "int64": "TYPE_INT64", "uint8": "TYPE_UINT8"}
ENGINES = {"onnxruntime_onnx": ("onnxruntime", "model.onnx"), "tensorrt_plan": ("tensorrt", "model.plan")}
"""Platform of a whole-sampler graph -> its backend, and the file that this looks for."""


class Symbol(str):
    """A value of an enumeration: written without quotes."""


def config(settings: Triton, artifact: Artifact, steps: Schedule, *, name: str) -> Message:
    """The ModelConfig of a package.

    Args:
        steps: of the sampler, with w at each of them where a request says none.
        name: the model's.
    """
    if settings.backend == "python":
        head: Message = {"name": name, "backend": "python"}
        inputs, outputs = python_inputs(artifact), [_tensor("image", "float32", artifact.drawn_shape)]
        if settings.previews:
            inputs.append({**_tensor("preview_every", "int64", [1]), "optional": True})
            outputs += [_tensor(name, "int64", [1]) for name in ("position", "step")]
    else:
        backend, file = ENGINES[settings.backend]
        head = {"name": name, "platform": settings.backend, "backend": backend, "default_model_filename": file}
        graph = artifact.graphs["sampler"]
        inputs, outputs = ([_entry(spec) for spec in specs] for specs in (graph.inputs, graph.outputs))
    return {
        **head,
        "max_batch_size": settings.max_batch_size,
        "input": inputs,
        "output": outputs,
        "version_policy": {"latest": {"num_versions": 1}},
        "instance_group": [instance_group(settings, artifact)],
        **(_batching(settings, inputs) if settings.scheduler == "dynamic" else {}),
        **({"model_transaction_policy": {"decoupled": True}} if settings.previews else {}),
        "parameters": _parameters(settings, artifact, steps),
    }


def _batching(settings: Triton, inputs: list[Message]) -> Message:
    """Of Triton's own batches, with the warm-up; the step scheduler has its trial steps for that."""
    return {
        "dynamic_batching": {
            "max_queue_delay_microseconds": settings.max_queue_delay_us,
            **_queue(settings),
        },
        "model_warmup": [
            _warm_up(title, size, inputs) for title, size in (("one image", 1), ("full batch", settings.max_batch_size))
        ],
    }


def _queue(settings: Triton) -> Message:
    return {"default_queue_policy": {"max_queue_size": settings.max_queue_size}} if settings.max_queue_size else {}


def python_inputs(artifact: Artifact) -> list[Message]:
    """Inputs of model.py, of one image. `allow_ragged_batch`: one guidance and a schedule may share a batch."""
    return [
        _tensor("label", "int64", [1]),
        {**_tensor("guidance", "float32", [-1]), "allow_ragged_batch": True, "optional": True},
        {"name": "seed", "data_type": Symbol("TYPE_UINT64"), "dims": [1], "optional": True},
        {"name": "index", "data_type": Symbol("TYPE_UINT64"), "dims": [1], "optional": True},
        _noise(artifact),
        {**_tensor("steps", "int64", [1]), "optional": True},
        {"name": "solver", "data_type": Symbol("TYPE_STRING"), "dims": [1], "optional": True},
    ]


def _noise(artifact: Artifact) -> Message:
    """Of a consistency student of several numbers of steps, requests bring as much noise as they have steps."""
    shape = artifact.noise_shape
    if len(shape) == 3 or len(artifact.grids) == 1:
        return {**_tensor("noise", "float32", shape), "optional": True}
    return {**_tensor("noise", "float32", (-1, *shape[1:])), "allow_ragged_batch": True, "optional": True}


def instance_group(settings: Triton, artifact: Artifact) -> Message:
    """Copies of the model, on CPUs where its artifact runs on CPUs, else on each GPU."""
    on_cpu = artifact.providers[:1] == ("CPUExecutionProvider",)
    group: Message = {"count": settings.instances, "kind": Symbol("KIND_CPU" if on_cpu else "KIND_GPU")}
    engine = artifact.graphs["sampler"].engine if settings.backend == "tensorrt_plan" else None
    if engine is not None:
        group["profile"] = [str(widest(engine.profiles))]
    return group


def widest(profiles: Sequence[BatchRange | Profile]) -> int:
    """Number of the optimization profile that takes the largest batch."""
    return max(range(len(profiles)), key=lambda i: profiles[i].max)


def _tensor(name: str, dtype: str, dims: Sequence[int]) -> Message:
    return {"name": name, "data_type": Symbol(TYPES[dtype]), "dims": list(dims)}


def _entry(spec: TensorSpec) -> Message:
    """A graph's input or output without its batch dimension; a request needs one dimension where the graph has none."""
    if spec.sides:
        return _tensor(spec.name, spec.dtype, spec.sides)
    return {**_tensor(spec.name, spec.dtype, [1]), "reshape": {"shape": []}}


def _parameters(settings: Triton, artifact: Artifact, steps: Schedule) -> Message:
    """What clients read (classes, guidance, its range) and the backend (threads, public_key, the scheduler)."""
    values = {
        "classes": json.dumps(artifact.classes),
        "guidance": json.dumps(steps.guidance_scales),
    }
    if artifact.guidance_range is not None:
        values["guidance_range"] = json.dumps(artifact.guidance_range)
    if settings.threads is not None:
        values["intra_op_thread_count" if settings.backend == "onnxruntime_onnx" else "threads"] = str(settings.threads)
    if settings.public_key is not None:
        values["public_key"] = settings.public_key
    if settings.scheduler == "steps":
        values |= {"scheduler": "steps", "previews": json.dumps(settings.previews)}
        values["max_queue_size"] = str(settings.max_queue_size)
    return {key: {"string_value": value} for key, value in values.items()}


def _warm_up(title: str, size: int, inputs: list[Message]) -> Message:
    """A made-up request of what is required, which runs before the model is ready: zeros, and random noise.

    What a request may leave out has a value that fits. An invented one need not: a guidance scale of 0 is refused by a
    student of one branch, and an error at warm-up ends the whole server.
    """
    made = {}
    for tensor in inputs:
        if tensor.get("optional"):
            continue
        data = "random_data" if tensor["name"] == "noise" else "zero_data"
        made[tensor["name"]] = {"data_type": tensor["data_type"], "dims": tensor["dims"], data: True}
    return {"name": title, "batch_size": size, "inputs": made}


def text(message: Message, indent: str = "") -> str:
    """A message in protobuf's text format; `parameters` and `inputs` (of a warm-up) are maps, lists are repeated."""
    lines = []
    for key, value in message.items():
        is_map = isinstance(value, dict) and key in ("parameters", "inputs")
        entries = [{"key": k, "value": v} for k, v in value.items()] if is_map else value
        if isinstance(entries, list) and not (entries and isinstance(entries[0], dict)):
            lines.append(f"{indent}{key}: [{', '.join(_scalar(e) for e in entries)}]")
        elif isinstance(entries, list | dict):
            for entry in entries if isinstance(entries, list) else [entries]:
                lines += [f"{indent}{key} {{", text(entry, indent + "  ").rstrip("\n"), f"{indent}}}"]
        else:
            lines.append(f"{indent}{key}: {_scalar(entries)}")
    return "\n".join(line for line in lines if line) + "\n"


def _scalar(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Symbol):
        return value
    return json.dumps(value, ensure_ascii=False)


def check(written: str, *, source: str) -> None:
    """Parse a config with Triton's protobuf, where tritonclient is installed.

    Raises:
        UserError: it is not one.
    """
    try:
        from google.protobuf import text_format
        from tritonclient.grpc import model_config_pb2
    except ImportError:
        return
    try:
        text_format.Parse(written, model_config_pb2.ModelConfig())
    except text_format.ParseError as error:
        raise UserError(f"{source}: Triton does not read it ({error})") from error
