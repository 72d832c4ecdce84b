"""The triton package: a model repository of Triton Inference Server that serves whole images, and how to use it."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from dashdeploy import checked, stages
from dashdeploy.artifact import Artifact, Backend, BatchRange, GraphName, Schedule
from dashdeploy.diffusion import guidance, noise
from dashdeploy.errors import UserError, telling_the_user
from dashdeploy.manifest import Manifest
from dashdeploy.packages import Writer, triton_config
from dashdeploy.packages.carry import carry
from dashdeploy.packages.schema import Package, Triton
from dashdeploy.packages.template import render
from dashdeploy.target import Profile

NEEDS: dict[str, tuple[Backend, GraphName, str]] = {
    "python": ("onnxruntime", "step", "onnx-cpu, onnx-cpu-int8 or onnx-cuda-fp16"),
    "onnxruntime_onnx": ("onnxruntime", "sampler", "onnx-cpu"),
    "tensorrt_plan": ("tensorrt", "sampler", "tensorrt-sampler"),
}
"""Triton backend -> the artifact's backend, the graph that it runs, and exporters that give one."""
MODULES = (
    *("model.py", "steps.py", "scheduler.py", "table.py"),
    *("asked.py", "sampler.py", "images.py", "plans.py", "reader.py"),
)
"""What the python backend runs, beside noise.py and checked.py."""
JSON_BYTES = 24
"""Of one number in a request, at most."""
SCHEMA = "manifest.schema.json"
"""The contract, which reader.py holds the manifest against."""


class TritonWriter(Writer):
    """Writes the repository, its client, a README and a Kubernetes example."""

    def __init__(self, package: Package, templates: Path) -> None:
        assert isinstance(package.package, Triton)
        self.package, self.settings, self.templates = package, package.package, templates

    def fits(
        self, source: str, backend: Backend, graphs: Collection[GraphName], profiles: Sequence[Profile | BatchRange]
    ) -> None:
        """Refuse an artifact that this backend of Triton cannot run.

        Raises:
            UserError: another runtime's artifact, no such graph, or batches that its engine does not take.
        """
        needed, name, fitting = NEEDS[self.settings.backend]
        start = f"{source}: Triton's backend {self.settings.backend} "
        if backend != needed:
            raise UserError(
                f"{start}runs artifacts for {needed}, and this one is for {backend}. In "
                f"{self.package.name}, set artifact to {fitting}, or backend to another."
            )
        if name not in graphs:
            raise UserError(
                f"{start}runs the {name} graph, and this artifact has {', '.join(graphs)}. "
                f"Add {name} to the target's graphs, or take {fitting}."
            )
        if self.settings.public_key is not None and self.settings.backend != "python":
            raise UserError(
                f"{start}does not check signatures, and {self.package.name} has a public_key: that is for backend "
                "python. Check the package before it is served, by dashdeploy verify."
            )
        if not profiles:
            return
        profile = profiles[triton_config.widest(profiles)]
        if self.settings.max_batch_size > profile.max:
            raise UserError(
                f"{start}would put up to {self.settings.max_batch_size} images into a batch, and the engine takes at "
                f"most {profile.max}. Lower max_batch_size in {self.package.name}, or raise max in the target's "
                "profile."
            )
        if profile.min > 1:
            raise UserError(
                f"{start}must run single requests too, and the engine's profile begins at {profile.min} images. "
                "Set min to 1 in the target's profile."
            )

    def write(self, destination: Path, folder: Path, manifest: Manifest) -> dict[str, Any]:
        """README.md, client.py and its modules, kubernetes/ and model_repository/<model>; returns what is served."""
        artifact, recipe_name = manifest.artifact, manifest.recipe["name"]
        name = self.settings.model_name or re.sub(r"[^A-Za-z0-9_-]", "-", recipe_name)
        steps = schedule(artifact, self.settings)
        message = triton_config.config(self.settings, artifact, steps, name=name)
        config = triton_config.text(message)
        triton_config.check(config, source=f"{name}/config.pbtxt")
        model = destination / "model_repository" / name
        (model / "1").mkdir(parents=True)
        (model / "config.pbtxt").write_text(config, encoding="utf-8")
        (model / "labels.txt").write_text("".join(f"{c}\n" for c in artifact.classes), encoding="utf-8")
        self._copy_model(model / "1", folder, manifest)
        for source in (Path(noise.__file__), self.templates / "stream.py"):
            shutil.copyfile(source, destination / source.name)
        values = self._values(name, message, artifact, steps)
        for place, template in (
            ("README.md", "README.md"),
            ("client.py", "client.py"),
            ("kubernetes/inferenceservice.yaml", "inferenceservice.yaml"),
            ("kubernetes/haproxy.cfg", "haproxy.cfg"),
            ("kubernetes/Dockerfile", f"Dockerfile.{self.settings.backend}"),
        ):
            (destination / place).parent.mkdir(exist_ok=True)
            (destination / place).write_text(render(self.templates, template, values), encoding="utf-8")
        return {"model": name, "backend": self.settings.backend, "num_inference_steps": len(steps.timesteps)}

    def _copy_model(self, version: Path, folder: Path, manifest: Manifest) -> None:
        """What Triton loads. Files that a graph names (its weights) keep their names."""
        if self.settings.backend == "python":
            sources = (*(self.templates / module for module in MODULES), Path(noise.__file__), Path(checked.__file__))
            for source in sources:
                shutil.copyfile(source, version / source.name)
            (version / SCHEMA).write_text(json.dumps(TypeAdapter(Manifest).json_schema()), encoding="utf-8")
            carry(folder, manifest, version / "artifact")
            return
        graph = manifest.artifact.graphs["sampler"]
        _, file = triton_config.ENGINES[self.settings.backend]
        with telling_the_user():
            loaded = checked.read_graph(folder, graph.file, graph.loaded, manifest.files)
        for name, data in {file: loaded.model, **loaded.weights}.items():
            (version / name).write_bytes(data)

    def _values(self, name: str, message: triton_config.Message, artifact: Artifact, steps: Schedule) -> dict[str, Any]:
        """What the templates' names stand for."""
        on_gpu = message["instance_group"][0]["kind"] == "KIND_GPU"
        num_steps = len(steps.timesteps)
        counts = {num_steps, *(len(grid) for grid in artifact.grids)}
        # Guidance may have a scale for each step, of as many as a request may ask for.
        most_scales = max(counts) if artifact.grids else len(artifact.betas)
        (noise_dims,) = (tensor["dims"] for tensor in message["input"] if tensor["name"] == "noise")
        noise_values = math.prod(side if side > 0 else max(counts) for side in noise_dims)
        return {
            "model": name,
            # A resource's name in Kubernetes has small letters, digits and hyphens.
            "service": re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-"),
            "backend": self.settings.backend,
            "num_classes": artifact.num_classes,
            "num_steps": num_steps,
            # For the guard: sizes of one image's inputs, and room for them as JSON.
            "sides": sorted(
                {1, *counts, *(side for tensor in message["input"] for side in tensor["dims"] if side > 0)}
            ),
            "scale_digits": len(str(most_scales)),
            "body_bytes": 4096 + JSON_BYTES * (noise_values + most_scales),
            "guidance": guidance.label(artifact.sampling.guidance),
            "guidance_range": artifact.guidance_range,
            "step_counts": " or ".join(str(len(grid)) for grid in artifact.grids),
            "solvers": " or ".join(f"`{solver}`" for solver in solvers(artifact)),
            "inputs": message["input"],
            "output": message["output"][0],
            "settings": self.settings,
            "on_gpu": on_gpu,
            "onnxruntime": "onnxruntime-gpu" if on_gpu else "onnxruntime",
            "onnxruntime_version": stages.versions().get("onnxruntime", "1.20.0"),
        }


def solvers(artifact: Artifact) -> tuple[str, ...]:
    """What model.py samples with; the first is the default."""
    usual: tuple[str, ...] = (artifact.sampling.solver,)
    return usual if artifact.grids else tuple(dict.fromkeys([*usual, "ddim", "dpmpp_2m"]))


def schedule(artifact: Artifact, settings: Triton) -> Schedule:
    """The steps of the graph that Triton runs: of the sampler graph, or of model.py's loop over the step graph."""
    if settings.backend == "python" or artifact.sampler is None:
        return artifact.sampling
    return artifact.sampler
