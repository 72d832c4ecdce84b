"""What an artifact's manifest says of a TensorRT engine, and of the tensors of any graph."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from dashdeploy.figures import Part

Flavour = Literal["tensorrt", "tensorrt_rtx"]
Dtype = Literal["float32", "float16", "bfloat16", "int64", "int32", "int8", "uint8", "bool"]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Text = Annotated[str, Field(pattern=r"^[^\x00]*$", max_length=4096)]
"""Ends where a C string ends."""
Size = Annotated[int, Field(ge=1, le=1 << 31)]


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
