"""The YAML of packages (`exporters/*.yaml`): the artifact that each carries, and the files around it."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, model_validator

from dashdeploy import locate
from dashdeploy.fields import Batch, Count, Model, Name, Positive, Text, Threads
from dashdeploy.recipe.load import MAX_BYTES, load_model
from dashdeploy.target import Target


class Cpp(Model):
    """A folder with an artifact and the C++ runtime's sources, which builds where there is no Python."""

    kind: Literal["cpp"] = "cpp"


class Triton(Model):
    """A model repository of Triton Inference Server, with its client and a Kubernetes example."""

    kind: Literal["triton"] = "triton"
    backend: Literal["python", "onnxruntime_onnx", "tensorrt_plan"] = Field(
        "python",
        description="python: model.py loops over the step graph. The others run the whole-sampler graph themselves",
    )
    model_name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")] | None = Field(
        None, description="the model's name in the repository; null: the recipe's"
    )
    scheduler: Literal["dynamic", "steps"] = Field(
        "dynamic",
        description="dynamic: Triton puts waiting requests into a batch, which runs all its steps. steps, of the "
        "python backend: requests enter and leave a running batch between its steps; its size follows from step times "
        "that are measured at start-up",
    )
    previews: bool = Field(
        False,
        description="scheduler steps: a request may ask for the image as it is guessed every k steps. The model is "
        "then decoupled, which Triton serves over gRPC streams only",
    )
    max_batch_size: Batch = Field(
        64, description="largest batch that requests are put together into; also, images of one request at most"
    )
    max_queue_delay_us: Count = Field(
        2000, description="scheduler dynamic: microseconds that a request may wait for others to join its batch"
    )
    max_queue_size: Count = Field(
        0,
        description="requests, of scheduler steps images, that may wait; more are refused at once. 0: no limit. With a "
        "limit the dynamic scheduler prepares no batch while another runs, and may leave a request that comes just "
        "then waiting for half a second",
    )
    instances: Threads = Field(1, description="copies of the model that run at the same time on each device")
    threads: Threads | None = Field(None, description="CPU threads of one instance; null: the server's choice")
    public_key: Annotated[str, Field(pattern=r"^RW[A-Za-z0-9+/]{54}$")] | None = Field(
        None,
        description="python backend: minisign public key, RW…, that must have signed the artifact; null: the server's "
        "environment variable DASHDEPLOY_PUBLIC_KEY, where it is set",
    )
    max_replicas: Positive = Field(4, description="Kubernetes example: replicas that autoscaling may start")

    @model_validator(mode="after")
    def _steps_fit(self) -> Triton:
        if self.previews and self.scheduler != "steps":
            raise ValueError("previews is of scheduler steps")
        if self.scheduler == "steps" and self.backend != "python":
            raise ValueError(f"scheduler steps is of backend python, not of {self.backend}")
        if self.scheduler == "steps" and self.instances != 1:
            raise ValueError("scheduler steps has one running batch: instances must be 1")
        return self


class Diffusers(Model):
    """The student as plain diffusers opens it: network, scheduler, labels, and a README with the sampling loop."""

    kind: Literal["diffusers"] = "diffusers"


class Web(Model):
    """A page that draws images in a browser, served as plain files."""

    kind: Literal["web"] = "web"
    title: Text | None = Field(None, description="the page's heading; null: the recipe's name")
    webgpu: bool = Field(False, description="carry onnxruntime-web's WebGPU too, 7 MB more, for pages that ask for it")
    onnxruntime_web: Text | None = Field(
        None,
        description="folder with a copy of the npm package onnxruntime-web of the pinned version; null: npm fetches it",
    )


class Package(Model):
    """One package: the artifact that it carries, and the kind of files around it."""

    name: Name = Field(description="names the folder: runs/<run>/packages/<name>")
    description: Text = Field(description="one line for listings")
    artifact: Text | None = Field(
        None,
        description="the deployment target that it carries: a name in exporters/, or a YAML file; null: none, of the "
        "kind diffusers, which carries the student itself",
    )
    package: Annotated[Cpp | Triton | Diffusers | Web, Field(discriminator="kind")]

    @model_validator(mode="after")
    def _carries_one(self) -> Package:
        if (self.artifact is None) != isinstance(self.package, Diffusers):
            raise ValueError(
                "package.kind diffusers carries the student itself: leave out artifact"
                if self.artifact
                else f"artifact is missing: a package of kind {self.package.kind} carries one"
            )
        return self


def load(name: str) -> Target | Package:
    """Read and validate a YAML file of exporters/: a package where it has the key `package`, else a target.

    Raises:
        UserError: not found or not valid; the message lists every problem with its line.
    """
    path = locate.find("exporters", name)
    try:
        with path.open("rb") as file:
            is_package = re.search(rb"^package\s*:", file.read(MAX_BYTES), re.MULTILINE)
    except OSError:
        is_package = None  # reading it as a target tells of it
    return load_model(Package, path) if is_package else load_model(Target, path)
