"""The artifact's contract: what export writes of it into its manifest, and what Python, C++ and Triton read there.

``dashdeploy exporters schema --artifact`` prints it as JSON Schema. Whatever the three runtimes must agree on is in
here: tensors, schedule, the sampling plan, and when a batch is cut over threads.
"""

from __future__ import annotations

import itertools
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from dashdeploy.figures import Part
from dashdeploy.recipe.schema import Guidance, GuidanceInterval, Solver, Tag

Backend = Literal["onnxruntime", "openvino", "tensorrt", "tensorrt_rtx"]
Flavour = Literal["tensorrt", "tensorrt_rtx"]
GraphName = Literal["guided", "cond", "step", "sampler"]
Precision = Literal["fp32", "fp16", "bf16", "int8"]
Dtype = Literal["float32", "float16", "bfloat16", "int64", "int32", "int8", "uint8", "bool"]
TENSORRT: tuple[Backend, ...] = ("tensorrt", "tensorrt_rtx")

SIGNATURES: dict[GraphName, tuple[tuple[str, ...], str]] = {
    "guided": (("x", "t", "y", "w"), "eps"),
    "cond": (("x", "t", "y"), "eps"),
    "step": (("x", "t", "t_prev", "y", "w"), "x_prev"),
    "sampler": (("noise", "y", "w"), "images"),
}
"""Graph -> the names of its inputs, in order, and of its output."""
MOST_PIXELS = 1 << 28
"""Values of one image."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$", max_length=255)]
"""A file of the artifact's folder: a name without folders."""
Text = Annotated[str, Field(pattern=r"^[^\x00]*$", max_length=4096)]
"""Ends where a C string ends."""
Side = Annotated[int, Field(ge=1, le=1 << 16)]
Size = Annotated[int, Field(ge=1, le=1 << 31)]
Timestep = Annotated[int, Field(ge=0, lt=1 << 20)]
Scale = Annotated[float, Field(ge=0, le=1e6)]
Share = Annotated[float, Field(ge=0, le=1)]


def _descending(timesteps: tuple[int, ...]) -> tuple[int, ...]:
    if any(now <= after for now, after in itertools.pairwise(timesteps)):
        raise ValueError("must descend")
    return timesteps


def _spelled_out(guidance: Any) -> Any:
    """Only recipes may leave a key to its default; other readers of a manifest have no defaults."""
    if isinstance(guidance, dict):
        keys = {"tag": Tag.model_fields, "interval": GuidanceInterval.model_fields}.get(str(guidance.get("kind")), {})
        if missing := [key for key in keys if key not in guidance]:
            raise ValueError(f"{missing[0]} is missing")
    return guidance


Timesteps = Annotated[tuple[Timestep, ...], Field(min_length=1), AfterValidator(_descending)]


class TensorSpec(Part):
    """One input or output of a graph; its first dimension is the batch."""

    name: Text
    dtype: Dtype
    shape: Annotated[tuple[Literal["batch"] | Size, ...], Field(min_length=1, max_length=8)]

    @property
    def sides(self) -> tuple[int, ...]:
        """The dimensions after the batch."""
        return tuple(side for side in self.shape if side != "batch")


class BatchRange(Part):
    """One profile of an engine: the batch sizes that it accepts, and the one that it is tuned for."""

    min: Annotated[int, Field(ge=1, le=1 << 20)]
    opt: Annotated[int, Field(ge=1, le=1 << 20)]
    max: Annotated[int, Field(ge=1, le=1 << 20)]

    @model_validator(mode="after")
    def _ordered(self) -> BatchRange:
        if not self.min <= self.opt <= self.max:
            raise ValueError(f"expected min ≤ opt ≤ max, got {self.min}, {self.opt}, {self.max}")
        return self


class EngineFlags(Part):
    """What the builder was told beside profiles and devices; workspace_mib None: no limit."""

    strongly_typed: bool
    tf32: bool
    workspace_mib: int | None
    optimization_level: int
    version_compatible: bool
    hardware_compatibility: Literal["none", "ampere_plus", "same_compute_capability"]


class EngineLayers(Part):
    """Kind of layer -> type -> number: `heavy` of the network, `engine` as an engine inspector read it, or None."""

    source: str
    heavy: dict[str, dict[str, int]]
    engine: dict[str, dict[str, int]] | None = None


class EngineRecord(Part):
    """What a TensorRT engine was built with, and what it runs on. None: not known where it was built.

    Attributes:
        tensorrt: version of the library that built it.
        cuda: major version of the library's CUDA.
        driver_cuda: the newest CUDA of the driver where it was built.
        compute_capabilities: of the GPUs that it was built for, as in "8.6".
        onnx_sha256: of the graph that it was built from, with its weights.
        build_s, build_peak_mib: time and memory of the host that the build took, also where it came from the cache.
    """

    flavour: Flavour
    tensorrt: Text
    cuda: Text | None
    driver_cuda: Text | None
    device_name: Text | None
    compute_capabilities: Annotated[tuple[Text, ...], Field(min_length=1, max_length=64)]
    profiles: Annotated[tuple[BatchRange, ...], Field(min_length=1, max_length=64)]
    flags: EngineFlags
    onnx_sha256: Sha256
    plan_sha256: Sha256
    plan_bytes: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    build_s: float
    build_peak_mib: float
    layers: EngineLayers
    from_cache: bool

    @property
    def largest_batch(self) -> int:
        """What any of its profiles accepts."""
        return max(profile.max for profile in self.profiles)


class Graph(Part):
    """One graph: its files, and names, types and shapes of what goes in and comes out.

    Attributes:
        file: what the runtime opens.
        files: all that belong to it: `file`, its weights, and beside an engine the ONNX file that it was built from.
        onnx: that ONNX file; None without an engine.
        onnx_sha256: of the ONNX file that the graph was exported to.
    """

    file: FileName
    files: Annotated[tuple[FileName, ...], Field(min_length=1, max_length=1024)]
    onnx: FileName | None = None
    onnx_sha256: Sha256
    inputs: Annotated[tuple[TensorSpec, ...], Field(min_length=1, max_length=16)]
    outputs: Annotated[tuple[TensorSpec, ...], Field(min_length=1, max_length=1)]
    engine: EngineRecord | None = None

    @property
    def loaded(self) -> tuple[str, ...]:
        """The files that a session reads: an engine without the ONNX file that it was built from."""
        return (self.file,) if self.engine is not None else self.files

    @model_validator(mode="after")
    def _lists_its_file(self) -> Graph:
        for name in (self.file, *([self.onnx] if self.onnx else [])):
            if name not in self.files:
                raise ValueError(f"files does not list {name!r}")
        return self


class Schedule(Part):
    """The steps of a sampler: descending timesteps, after whose last comes the clean image, and w at each of them."""

    timesteps: Timesteps
    guidance_scales: tuple[Scale, ...]

    @model_validator(mode="after")
    def _has_a_scale_a_step(self) -> Schedule:
        if len(self.guidance_scales) != len(self.timesteps):
            raise ValueError(f"guidance_scales has {len(self.guidance_scales)} values for {len(self.timesteps)} steps")
        return self


class SamplingPlan(Schedule):
    """The recipe's sampling, worked out: what a loop on the host runs where it is told nothing else.

    Attributes:
        solver: the step and sampler graphs hold DDIM's update; another solver loops over the guided graph.
        timestep_spacing, guidance: how a host makes timesteps and scales for another number of steps.
        clip_sample: the predicted x_0 is clipped to [−1, 1], in the graphs and on the host.
    """

    solver: Solver
    timestep_spacing: Literal["leading", "trailing", "linspace"]
    guidance: Annotated[Guidance, BeforeValidator(_spelled_out)]
    clip_sample: bool


class WholeSampler(Schedule):
    """The graph of all steps: its timesteps are constants of it, and its input w defaults to guidance_scales.

    output: float32, within [−1, 1] if sampling.clip_sample, or uint8.
    """

    form: Literal["unrolled", "loop"]
    output: Literal["float32", "uint8"]


class Host(Part):
    """How a host cuts a batch over its CPU threads, and when it loops instead of taking the sampler graph.

    A batch of as many images as threads, or more, is cut, and each part runs all its steps on one thread.

    Attributes:
        small: operators are too short to be shared by threads, so a smaller batch runs on one thread too.
        cond_gain: with a cond graph, a step of guidance scale 1 costs half on the host. The loop replaces the sampler
            graph where that saves this share of all work.
        cond_gain_few: the same for a small network and fewer images than threads, where the host's part of a call
            counts.
    """

    small: bool
    cond_gain: Share
    cond_gain_few: Share


class Student(Part):
    """What any holder of one of its graphs must know of the student; each ONNX file's metadata says it too."""

    precision: Precision
    prediction_type: Literal["epsilon"]
    image_shape: tuple[Side, Side, Side]
    num_classes: Annotated[int, Field(ge=1, le=1 << 24)]
    null_class: int
    classes: tuple[Text, ...]
    num_train_timesteps: Annotated[int, Field(ge=1, le=1 << 20)]
    betas: tuple[Annotated[float, Field(gt=0, lt=1)], ...]
    schedule_sha256: Sha256
    parameters: Annotated[int, Field(ge=0, le=1 << 31)]
    student_sha256: Sha256
    recipe_sha256: Sha256

    @model_validator(mode="after")
    def _counts_agree(self) -> Student:
        if len(self.classes) != self.num_classes:
            raise ValueError(f"classes has {len(self.classes)} names for {self.num_classes} classes")
        if self.null_class != self.num_classes:
            raise ValueError(f"null_class must be num_classes, {self.num_classes}, got {self.null_class}")
        if len(self.betas) != self.num_train_timesteps:
            raise ValueError(f"betas has {len(self.betas)} values for {self.num_train_timesteps} timesteps")
        channels, height, width = self.image_shape
        if channels * height * width > MOST_PIXELS:
            raise ValueError(f"image_shape has more than {MOST_PIXELS} values")
        return self


class Artifact(Student):
    """A student in the form that one backend runs.

    Attributes:
        macs: multiply–adds of one guided step of one image.
        providers: ONNX Runtime's, in order; empty for other backends.
        sampler: None without a sampler graph.
    """

    backend: Backend
    opset: int
    macs: Annotated[int, Field(ge=0, le=10**18)]
    providers: Annotated[tuple[Text, ...], Field(max_length=16)] = ()
    host: Host
    sampling: SamplingPlan
    sampler: WholeSampler | None = None
    graphs: dict[GraphName, Graph]

    @model_validator(mode="after")
    def _holds_together(self) -> Artifact:
        if "guided" not in self.graphs:
            raise ValueError("graphs has no guided graph")
        if "sampler" in self.graphs and self.sampler is None:
            raise ValueError("graphs has a sampler, and sampler does not say its timesteps")
        for part, schedule in (("sampling", self.sampling), ("sampler", self.sampler)):
            if schedule is not None and schedule.timesteps[0] >= self.num_train_timesteps:
                raise ValueError(f"{part}.timesteps must be below num_train_timesteps, {self.num_train_timesteps}")
        if self.backend == "onnxruntime" and not self.providers:
            raise ValueError("providers is empty")
        for name, graph in self.graphs.items():
            self._check_graph(name, graph)
        return self

    def _check_graph(self, name: GraphName, graph: Graph) -> None:
        inputs, outputs = tensors(name, image_shape=self.image_shape, sampler=self.sampler)
        for part, given, expected in (("inputs", graph.inputs, inputs), ("outputs", graph.outputs, outputs)):
            if given != expected:
                raise ValueError(f"graphs.{name}.{part} must be {_listed(expected)}, got {_listed(given)}")
        flavour = graph.engine.flavour if graph.engine else None
        if flavour != (self.backend if self.backend in TENSORRT else None):
            raise ValueError(f"graphs.{name}.engine is {flavour or 'not there'}, and backend is {self.backend}")


def tensors(
    graph: GraphName, *, image_shape: tuple[int, int, int], sampler: WholeSampler | None
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """The inputs and outputs that a graph must have; of the sampler's, w is (B, N): a scale for each step."""
    image, whole = ("batch", *image_shape), sampler if graph == "sampler" else None
    shapes: dict[str, tuple[Any, ...]] = {
        **dict.fromkeys(("x", "noise", "eps", "x_prev", "images"), image),
        "w": ("batch", len(whole.timesteps)) if whole else ("batch",),
    }
    dtypes: dict[str, Dtype] = {**dict.fromkeys(("t", "t_prev", "y"), "int64")}
    if whole:
        dtypes["images"] = whole.output

    def spec(name: str) -> TensorSpec:
        return TensorSpec(name=name, dtype=dtypes.get(name, "float32"), shape=shapes.get(name, ("batch",)))

    inputs, output = SIGNATURES[graph]
    return tuple(spec(name) for name in inputs), (spec(output),)


def _listed(specs: tuple[TensorSpec, ...]) -> str:
    return ", ".join(f"{spec.name} {spec.dtype} [{', '.join(map(str, spec.shape))}]" for spec in specs)
