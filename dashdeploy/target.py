"""Deployment targets: what to ship, as validated data (`exporters/*.yaml`)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StrictBool, model_validator

from dashdeploy import locate
from dashdeploy.artifact import TENSORRT, Backend, GraphName, Precision
from dashdeploy.fields import (
    DISTINCT,
    WHOLE,
    Batch,
    Bins,
    Count,
    Images,
    Model,
    Name,
    Number,
    Positive,
    Text,
    Timesteps,
)
from dashdeploy.recipe.load import read
from dashdeploy.recipe.paths import absolute


class ParityLimits(Model):
    """How closely a float32 graph must follow the student in torch."""

    relative_error: Number = Field(
        1e-4, gt=0, description="largest relative error of each branch and of the guided output"
    )
    sampler_error: Number = Field(
        1e-3, gt=0, description="largest difference of a final image of the step and sampler graphs; images span 2"
    )
    batch_sizes: Annotated[tuple[Annotated[int, Field(ge=1, le=1024), WHOLE], ...], DISTINCT] = Field(
        (1, 3, 31, 65), min_length=1, description="batch sizes that are checked"
    )
    t_bins: Bins = Field(10, ge=1, description="ranges of t that are checked, each by itself")


class GateLimits(Model):
    """The guidance gate: how much of the guidance a lower precision may cost, against the student in torch, float32.

    A guided prediction weighs the gap eps_cond − eps_uncond by w, so a graph whose outputs look right may
    still have lost its guidance; so the gap has its limits too.
    """

    branch_error: Number = Field(0.02, gt=0, description="relative error of each branch in each range of t")
    gap_relative_error: Number = Field(0.05, gt=0, description="relative error of the gap over all t")
    gap_relative_error_bin: Number = Field(0.25, gt=0, description="the same in each range of t")
    gap_cosine: Number = Field(0.998, gt=0, le=1, description="least cosine of the gap over all t")
    guided_error: Number = Field(0.03, gt=0, description="relative error at the recipe's guidance in each range of t")
    step_error: Number = Field(0.02, gt=0, description="cond and step graphs: relative error of one step")
    image_error: Number = Field(
        0.1, gt=0, description="step and sampler graphs: relative error of the final images, from the same noise"
    )
    num_draws: Images = Field(256, ge=32, description="draws of (x_t, t, y) along the sampler's trajectories")
    t_bins: Bins = Field(8, ge=1, description="ranges of t that are judged, each by itself")


class SamplerGraph(Model):
    """The whole sampler in one graph."""

    form: Literal["unrolled", "loop"] = Field(
        "loop", description="loop: one ONNX Loop over the steps. unrolled: a copy of the network for each step"
    )
    num_inference_steps: Timesteps | None = Field(None, description="null: the recipe's")
    output: Literal["float32", "uint8"] = Field(
        "float32",
        description="float32: as the steps give it, within [-1, 1] if sampling.clip_sample is true. "
        "uint8: [-1, 1] as 0..255, saturated; not of latents",
    )
    decode: StrictBool = Field(
        False, description="of a student of latents: end in the decoder, and give images in place of latents"
    )


ERRORS: dict[Precision, float] = {"fp32": 1e-4, "fp16": 0.02, "bf16": 0.05, "int8": 0.1}
"""Largest relative error of a decoder's images, where the target says none."""


class Vae(Model):
    """The decoder of a student of latents, which becomes a graph of its own; students of images have none."""

    path: Text | None = Field(
        None,
        description="folder of another autoencoder for the same latents, such as an AutoencoderTiny, relative to this "
        "file; null: the one that the student was trained with",
    )
    precision: Precision | None = Field(None, description="null: the target's, and fp32 of an int8 target")
    output: Literal["float32", "uint8"] = Field(
        "float32", description="float32: within [-1, 1]. uint8: 0..255, rounded to nearest"
    )
    at_once: Batch = Field(8, description="most images that are decoded at a time: a larger batch goes in parts")
    error: Number | None = Field(
        None,
        gt=0,
        description="largest relative error of an image against the same autoencoder in torch, float32; null: 0.0001 "
        "for fp32, 0.02 for fp16, 0.05 for bf16, 0.1 for int8",
    )


class Calibration(Model):
    """How int8 scales are measured: on both branches along the sampler's trajectories, stratified over t."""

    quantizer: Literal["onnxruntime", "nncf"] = Field("onnxruntime", description="nncf: for the backend openvino")
    num_images: Images = Field(32, ge=4, description="trajectories; classes and guidance scales in turn")
    num_steps: Timesteps = Field(10, description="points of each trajectory, spread evenly over t")
    method: Literal["minmax", "percentile", "entropy"] = Field("minmax", description="how a range becomes a scale")
    float_layers: Count = Field(
        8, description="most layers that the sensitive-layer search may leave in float to pass the gate; 0: no search"
    )


class Profile(Model):
    """One TensorRT optimization profile: the batch sizes that an engine accepts, and the one it is tuned for."""

    min: Batch = Field(1, description="smallest batch size")
    opt: Batch = Field(8, description="the batch size that the engine is tuned for")
    max: Batch = Field(64, description="largest batch size")

    @model_validator(mode="after")
    def _ordered(self) -> Profile:
        if not self.min <= self.opt <= self.max:
            raise ValueError(f"expected min ≤ opt ≤ max, got {self.min}, {self.opt}, {self.max}")
        return self


class Engine(Model):
    """What the TensorRT builders are told."""

    profiles: tuple[Profile, ...] = Field((Profile(),), min_length=1, description="batch sizes that the engine accepts")
    workspace_mib: Positive | None = Field(None, description="scratch memory of the engine; null: no limit")
    optimization_level: Annotated[int, Field(ge=0, le=5)] = Field(
        3, description="0: quickest build, 5: longest search for the fastest engine"
    )
    timing_cache: Text | None = Field(None, description="timing cache file; null: one beside the run's engines")
    version_compatible: StrictBool = Field(
        False, description="tensorrt: the engine also loads in later versions of the same major version"
    )
    hardware_compatibility: Literal["none", "ampere_plus", "same_compute_capability"] = Field(
        "none", description="tensorrt: which other GPUs the engine runs on"
    )
    compute_capabilities: Annotated[tuple[Literal["7.5", "8.0", "8.6", "8.9", "12.0", "12.1"], ...], DISTINCT] = Field(
        (), description='tensorrt_rtx: GPUs to build for, as in ["8.6", "8.9"]; []: the one in this machine'
    )


class Target(Model):
    """One deployment target."""

    name: Name = Field(description="names the folder: runs/<run>/artifacts/<name>")
    description: Text = Field(description="one line for listings")
    backend: Backend = Field("onnxruntime", description="the runtime that it is made for")
    graphs: Annotated[tuple[GraphName, ...], DISTINCT] = Field(
        ("guided",),
        min_length=1,
        description="guided: both branches and their combination. cond: the conditional branch, for steps without "
        "guidance. step: guided and one DDIM update. sampler: all steps",
    )
    precision: Precision = Field("fp32", description="of the network; norms, guidance and update stay in float32")
    opset: Annotated[int, Field(ge=18, le=23), WHOLE] = Field(22, description="of the ONNX graphs")
    group_norm: Literal["native", "instance"] = Field(
        "native", description="native: ONNX GroupNormalization. instance: its InstanceNormalization equivalent"
    )
    providers: Annotated[tuple[Text, ...], DISTINCT] = Field(
        ("CPUExecutionProvider",), min_length=1, description="onnxruntime: providers, in order"
    )
    single_file_mb: Annotated[int, Field(ge=0, le=1900), WHOLE] = Field(
        100, description="weights go into the graph's file up to this size; protobuf ends at 2 GB"
    )
    sampler: SamplerGraph = SamplerGraph()
    vae: Vae | None = Field(
        Vae(), description="of a student of latents; null: no decoder, and the artifact gives latents"
    )
    calibration: Calibration = Calibration()
    engine: Engine = Engine()
    parity: ParityLimits = ParityLimits()
    gate: GateLimits = GateLimits()

    @property
    def largest_batch(self) -> int | None:
        """What its engines accept; None: any."""
        return max(profile.max for profile in self.engine.profiles) if self.backend in TENSORRT else None

    @property
    def decoder_precision(self) -> Precision:
        """Of the decoder of a student of latents."""
        own = self.vae.precision if self.vae is not None else None
        return own or ("fp32" if self.precision == "int8" else self.precision)

    def precision_of(self, graph: GraphName) -> Precision:
        """Of one of its graphs, the decoder among them."""
        return self.decoder_precision if graph == "decoder" else self.precision

    @property
    def decoder_error(self) -> float:
        """The limit of `Vae.error`."""
        own = self.vae.error if self.vae is not None else None
        return own or ERRORS[self.decoder_precision]

    @model_validator(mode="after")
    def _decodes(self) -> Target:
        if "decoder" in self.graphs:
            raise ValueError("leave decoder out of graphs: a student of latents has it, unless vae is null")
        if self.vae is None and self.sampler.decode:
            raise ValueError("sampler.decode is true, and vae is null: there is no decoder to end in")
        if self.decoder_precision == "int8" and self.calibration.quantizer == "nncf":
            raise ValueError("vae.precision int8 is by onnxruntime, and calibration.quantizer is nncf: take fp32")
        return self

    @model_validator(mode="after")
    def _holds_together(self) -> Target:
        given = self.model_fields_set
        if "guided" not in self.graphs:
            raise ValueError("graphs must include guided: it is what parity and the guidance gate measure")
        if "engine" in given and self.backend not in TENSORRT:
            raise ValueError(f"engine is for the backends {' and '.join(TENSORRT)}; this one is {self.backend}")
        if "providers" in given and self.backend != "onnxruntime":
            raise ValueError(f"providers is for the backend onnxruntime; this one is {self.backend}")
        if "calibration" in given and self.precision != "int8":
            raise ValueError(f"calibration is for precision int8; this one is {self.precision}")
        if "sampler" in given and "sampler" not in self.graphs:
            raise ValueError("sampler has settings, but graphs does not include it")
        if self.backend != "tensorrt_rtx" and self.engine.compute_capabilities:
            raise ValueError("engine.compute_capabilities is tensorrt_rtx's; tensorrt has hardware_compatibility")
        if self.backend == "tensorrt_rtx" and self.engine.version_compatible:
            raise ValueError("engine.version_compatible is tensorrt's; tensorrt_rtx has no such engines")
        if self.backend == "tensorrt_rtx" and self.engine.hardware_compatibility != "none":
            raise ValueError("engine.hardware_compatibility is tensorrt's; tensorrt_rtx has compute_capabilities")
        if self.calibration.quantizer == "nncf" and self.backend != "openvino":
            raise ValueError(f"calibration.quantizer nncf makes OpenVINO models; {self.backend} takes onnxruntime's")
        if self.calibration.quantizer == "nncf" and "sampler" in self.graphs:
            raise ValueError("calibration.quantizer nncf cannot quantize a sampler graph; leave sampler out of graphs")
        on_cpu = self.backend == "onnxruntime" and self.providers[0] == "CPUExecutionProvider"
        if on_cpu and "bf16" in (self.precision, self.decoder_precision):
            raise ValueError("ONNX Runtime's CPU provider does not run bf16; take fp16, or the backend openvino")
        return self


def load_target(name: str) -> Target:
    """Read and validate a target: a name in exporters/, or a YAML file.

    Raises:
        UserError: not found or not valid; the message lists every problem with its line.
    """
    path = locate.find("exporters", name)
    document = read(Target, path)
    vae = document.values.get("vae")
    if isinstance(vae, dict) and isinstance(text := vae.get("path"), str) and text:
        vae["path"] = absolute(text, path.parent)
    return document.validated()
