"""The artifact's contract: what export writes of it into its manifest, and what Python, C++ and Triton read there.

``dashdeploy exporters schema --artifact`` prints it as JSON Schema. Whatever the three runtimes must agree on is in
here: tensors, schedule, the sampling plan, and when a batch is cut over threads.
"""

from __future__ import annotations

import itertools
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from dashdeploy.artifact.decoder import DecoderInfo as DecoderInfo
from dashdeploy.artifact.decoder import Precision as Precision
from dashdeploy.artifact.decoder import Side, refuse_huge
from dashdeploy.artifact.engine import BatchRange as BatchRange
from dashdeploy.artifact.engine import Dtype, EngineRecord, Sha256, TensorSpec, Text
from dashdeploy.artifact.engine import EngineFlags as EngineFlags
from dashdeploy.artifact.engine import EngineLayers as EngineLayers
from dashdeploy.artifact.engine import Flavour as Flavour
from dashdeploy.figures import Part
from dashdeploy.recipe.schema import Guidance, GuidanceInterval, Prediction, Solver, Tag

Backend = Literal["onnxruntime", "openvino", "tensorrt", "tensorrt_rtx"]
GraphName = Literal["guided", "cond", "step", "sampler", "decoder"]
TENSORRT: tuple[Backend, ...] = ("tensorrt", "tensorrt_rtx")

SIGNATURES: dict[GraphName, tuple[tuple[str, ...], str]] = {
    "guided": (("x", "t", "y", "w"), "eps"),
    "cond": (("x", "t", "y"), "eps"),
    "step": (("x", "t", "t_prev", "y", "w"), "x_prev"),
    "sampler": (("noise", "y", "w"), "images"),
    "decoder": (("latents",), "images"),
}
"""Graph -> the names of its inputs, in order, and of its output; `output_name` has that of other predictions."""
PREDICTED = {"epsilon": "eps", "v_prediction": "v", "sample": "x_0"}
"""What a student predicts -> the name of the guided and the cond graph's output."""

FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$", max_length=255)]
"""A file of the artifact's folder: a name without folders."""
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


def _integer(value: Any) -> Any:
    """A Literal of integers takes true and 1.0 for 1, in strict mode too; no other reader does."""
    if type(value) is not int:
        raise ValueError("must be an integer")
    return value


Branches = Annotated[Literal[1, 2], BeforeValidator(_integer)]
Timesteps = Annotated[tuple[Timestep, ...], Field(min_length=1), AfterValidator(_descending)]


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
        solver: the step graph holds DDIM's update, which goes to x_0 where t_prev is −1, as each step of consistency
            does; the sampler graph that of the solver; dpmpp_2m loops over the guided graph. consistency is of students
            that were trained for it, and of these it is the only one.
        timestep_spacing, guidance: how a host makes timesteps and scales for another number of steps.
        clip_sample: the predicted x_0 is clipped to [−1, 1], in the graphs and on the host.
    """

    solver: Solver
    timestep_spacing: Literal["leading", "trailing", "linspace"]
    guidance: Annotated[Guidance, BeforeValidator(_spelled_out)]
    clip_sample: bool


class WholeSampler(Schedule):
    """The graph of all steps: its timesteps are constants of it, and its input w defaults to guidance_scales.

    output: float32, within [−1, 1] if sampling.clip_sample or decode, or uint8.
    decode: it ends in the decoder, and gives images of a student of latents.
    """

    form: Literal["unrolled", "loop"]
    output: Literal["float32", "uint8"]
    decode: bool


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
    """What any holder of one of its graphs must know of the student; each ONNX file's metadata says it too.

    Attributes:
        betas: the last may be 1, where no signal is left (zero terminal SNR), unless the student predicts eps.
        branches: 2: guidance combines two. 1: w is an input of the network, and nothing is unconditional.
        guidance_range: of one branch, the lowest and the highest w; None for two.
        grids: the lists of timesteps that a few-step student was trained for; (): any timesteps.
        latents: image_shape is of an autoencoder's latents, which have no fixed range.
        decoder: of these; None: of images, or nothing decodes them.
    """

    precision: Precision
    prediction_type: Prediction
    image_shape: tuple[Side, Side, Side]
    latents: bool
    decoder: DecoderInfo | None
    num_classes: Annotated[int, Field(ge=1, le=1 << 24)]
    null_class: int
    classes: tuple[Text, ...]
    num_train_timesteps: Annotated[int, Field(ge=1, le=1 << 20)]
    betas: tuple[Annotated[float, Field(gt=0, le=1)], ...]
    schedule_sha256: Sha256
    branches: Branches
    guidance_range: tuple[Scale, Scale] | None
    grids: Annotated[tuple[Timesteps, ...], Field(max_length=64)]
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
        if any(beta == 1 for beta in self.betas[:-1]) or (self.betas[-1] == 1 and self.prediction_type == "epsilon"):
            raise ValueError("betas must be between 0 and 1; the last may be 1 where prediction_type is not epsilon")
        if (self.branches == 1) != (self.guidance_range is not None):
            raise ValueError("guidance_range is of a student of one branch, and null of one of two")
        if self.guidance_range is not None and not self.guidance_range[0] < self.guidance_range[1]:
            raise ValueError("guidance_range must be two scales, the lower one first")
        for grid in self.grids:
            if grid[0] >= self.num_train_timesteps:
                raise ValueError(f"grids must be below num_train_timesteps, {self.num_train_timesteps}")
        refuse_huge(self.image_shape)
        if self.decoder is not None and not self.latents:
            raise ValueError("decoder is of latents, and latents is false")
        return self

    @property
    def drawn_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of what is drawn: images, or latents where nothing decodes them."""
        return self.image_shape if self.decoder is None else self.decoder.image_shape


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

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Of one image's noise in the recipe's plan: (C, H, W); of the solver consistency (N, C, H, W)."""
        plan = self.sampling
        return (len(plan.timesteps), *self.image_shape) if plan.solver == "consistency" else self.image_shape

    @model_validator(mode="after")
    def _holds_together(self) -> Artifact:
        if "guided" not in self.graphs:
            raise ValueError("graphs has no guided graph")
        if "cond" in self.graphs and self.branches == 1:
            raise ValueError("graphs has a cond graph, and a student of one branch has none")
        if "sampler" in self.graphs and self.sampler is None:
            raise ValueError("graphs has a sampler, and sampler does not say its timesteps")
        if ("decoder" in self.graphs) != (self.decoder is not None):
            raise ValueError("decoder says what graphs.decoder gives; one of the two is not there")
        if self.sampler is not None and self.sampler.decode and self.decoder is None:
            raise ValueError("sampler.decode is true, and there is no decoder")
        for part, schedule in (("sampling", self.sampling), ("sampler", self.sampler)):
            if schedule is not None and schedule.timesteps[0] >= self.num_train_timesteps:
                raise ValueError(f"{part}.timesteps must be below num_train_timesteps, {self.num_train_timesteps}")
            if schedule is not None and self.grids and schedule.timesteps not in self.grids:
                raise ValueError(f"{part}.timesteps must be one of grids")
            low, high = self.guidance_range or (0.0, float("inf"))
            if schedule is not None and not all(low <= w <= high for w in schedule.guidance_scales):
                raise ValueError(f"{part}.guidance_scales must be within guidance_range")
        if self.sampling.solver == "consistency" and not self.grids:
            raise ValueError("sampling.solver consistency is of a few-step student, and grids is empty")
        if self.backend == "onnxruntime" and not self.providers:
            raise ValueError("providers is empty")
        for name, graph in self.graphs.items():
            self._check_graph(name, graph)
        return self

    def _check_graph(self, name: GraphName, graph: Graph) -> None:
        inputs, outputs = tensors(
            name,
            student=self,
            sampler=self.sampler,
            solver=self.sampling.solver,
        )
        for part, given, expected in (("inputs", graph.inputs, inputs), ("outputs", graph.outputs, outputs)):
            if given != expected:
                raise ValueError(f"graphs.{name}.{part} must be {_listed(expected)}, got {_listed(given)}")
        flavour = graph.engine.flavour if graph.engine else None
        if flavour != (self.backend if self.backend in TENSORRT else None):
            raise ValueError(f"graphs.{name}.engine is {flavour or 'not there'}, and backend is {self.backend}")


def output_name(graph: GraphName, prediction: Prediction) -> str:
    """The name of a graph's output: of the guided and the cond graph, what the student predicts."""
    name = SIGNATURES[graph][1]
    return PREDICTED[prediction] if name == "eps" else name


def tensors(
    graph: GraphName,
    *,
    student: Student,
    sampler: WholeSampler | None,
    solver: Solver,
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """The inputs and outputs that a graph must have; of the sampler's, w is (B, N): a scale for each step.

    The noise of a sampler of the solver consistency is (B, N, C, H, W).
    """
    image, whole = ("batch", *student.image_shape), sampler if graph == "sampler" else None
    shapes: dict[str, tuple[Any, ...]] = {
        **dict.fromkeys(("x", "noise", *PREDICTED.values(), "x_prev", "images", "latents"), image),
        "w": ("batch", len(whole.timesteps)) if whole else ("batch",),
    }
    dtypes: dict[str, Dtype] = {**dict.fromkeys(("t", "t_prev", "y"), "int64")}
    if whole:
        dtypes["images"] = whole.output
        if solver == "consistency":
            shapes["noise"] = ("batch", len(whole.timesteps), *student.image_shape)
    if student.decoder is not None and (graph == "decoder" or (whole and whole.decode)):
        shapes["images"] = ("batch", *student.decoder.image_shape)
        dtypes["images"] = whole.output if whole else student.decoder.output

    def spec(name: str) -> TensorSpec:
        return TensorSpec(name=name, dtype=dtypes.get(name, "float32"), shape=shapes.get(name, ("batch",)))

    return tuple(spec(name) for name in SIGNATURES[graph][0]), (spec(output_name(graph, student.prediction_type)),)


def _listed(specs: tuple[TensorSpec, ...]) -> str:
    return ", ".join(f"{spec.name} {spec.dtype} [{', '.join(map(str, spec.shape))}]" for spec in specs)
