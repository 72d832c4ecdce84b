"""Deployment targets: what to ship, as validated data (`exporters/*.yaml`)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from dashdeploy import locate
from dashdeploy.recipe.fields import DISTINCT, Count, Number, Positive, Text, Whole
from dashdeploy.recipe.load import load_model
from dashdeploy.recipe.schema import Model


class ParityLimits(Model):
    """How closely an artifact must follow the student in torch."""

    relative_error: Number = Field(
        1e-4, gt=0, description="largest relative error of each branch and of the guided output"
    )
    batch_sizes: Annotated[tuple[Positive, ...], DISTINCT] = Field(
        (1, 3, 31, 65), min_length=1, description="batch sizes that are checked"
    )
    t_bins: Positive = Field(10, description="ranges of t that are checked, each alone")


class Target(Model):
    """One deployment target."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    description: Text = Field(description="one line for listings")
    backend: Literal["onnxruntime"] = "onnxruntime"
    graph: Literal["guided"] = Field("guided", description="guided: both branches and their combination in one graph")
    precision: Literal["fp32"] = "fp32"
    opset: Whole = Field(22, ge=18, le=23)
    group_norm: Literal["native", "instance"] = Field(
        "native", description="native: ONNX GroupNormalization. instance: its InstanceNormalization equivalent"
    )
    providers: Annotated[tuple[Text, ...], DISTINCT] = Field(
        ("CPUExecutionProvider",), min_length=1, description="ONNX Runtime providers, in order"
    )
    single_file_mb: Count = Field(100, description="weights go into the graph's file up to this size")
    parity: ParityLimits = ParityLimits()


def load_target(name: str) -> Target:
    """Read and validate a target: a name in exporters/, or a YAML file.

    Raises:
        UserError: not found or not valid; the message lists every problem with its line.
    """
    return load_model(Target, locate.find("exporters", name))
