"""The triton package: a model repository of Triton Inference Server that serves whole images, and how to use it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

from dashdeploy import stages
from dashdeploy.diffusion import guidance, noise, sampling
from dashdeploy.errors import UserError
from dashdeploy.package import Package, Triton
from dashdeploy.packages import triton_config
from dashdeploy.packages.template import fill
from dashdeploy.recipe.schema import Recipe
from dashdeploy.runtime.graphs_model import loaded

NEEDS = {
    "python": ("onnxruntime", "step", "onnx-cpu, onnx-cpu-int8 or onnx-cuda-fp16"),
    "onnxruntime_onnx": ("onnxruntime", "sampler", "onnx-cpu"),
    "tensorrt_plan": ("tensorrt", "sampler", "tensorrt-sampler"),
}
"""Triton backend -> the artifact's backend, the graph that it runs, and exporters that give one."""
MODULES = ("model.py", "sampler.py")
"""What the python backend runs, beside noise.py."""


class Writer:
    """Writes the repository, its client, a README and a Kubernetes example."""

    def __init__(self, package: Package, templates: Path) -> None:
        assert isinstance(package.package, Triton)
        self.package, self.what, self.templates = package, package.package, templates

    def check(self, artifact: stages.Stage) -> None:
        """Refuse an artifact that this backend of Triton cannot run.

        Raises:
            UserError: another runtime's artifact, no such graph, or batches that its engine does not take.
        """
        backend, graph, fitting = NEEDS[self.what.backend]
        described = artifact.manifest["artifact"]
        start = f"{artifact.folder}: Triton's backend {self.what.backend} "
        if described["backend"] != backend:
            raise UserError(
                f"{start}runs artifacts for {backend}, and this one is for {described['backend']}. In "
                f"{self.package.name}, set artifact to {fitting}, or backend to another."
            )
        if graph not in described["graphs"]:
            raise UserError(
                f"{start}runs the {graph} graph, and this artifact has {', '.join(described['graphs'])}. "
                f"Add {graph} to the target's graphs, or take {fitting}."
            )
        profiles = described["graphs"][graph].get("engine", {}).get("profiles")
        if not profiles:
            return
        profile = profiles[triton_config.widest(profiles)]
        if self.what.max_batch_size > profile["max"]:
            raise UserError(
                f"{start}would put up to {self.what.max_batch_size} images into a batch, and the engine takes at most "
                f"{profile['max']}. Lower max_batch_size in {self.package.name}, or raise max in the target's profile."
            )
        if profile["min"] > 1:
            raise UserError(
                f"{start}must run single requests too, and the engine's profile begins at {profile['min']} images. "
                "Set min to 1 in the target's profile."
            )

    def write(self, folder: Path, artifact: stages.Stage, recipe: Recipe) -> dict[str, Any]:
        """README.md, client.py, kubernetes/ and model_repository/<model>; returns the model's name and backend."""
        described = artifact.manifest["artifact"]
        name = self.what.model_name or re.sub(r"[^A-Za-z0-9_-]", "-", recipe.name)
        steps, scales = schedule(described, recipe)
        message = triton_config.config(self.what, described, name=name, timesteps=steps, guidance=scales)
        config = triton_config.text(message)
        model = folder / "model_repository" / name
        version = model / "1"
        version.mkdir(parents=True)
        triton_config.check(config, source=f"{name}/config.pbtxt")
        (model / "config.pbtxt").write_text(config, encoding="utf-8")
        (model / "labels.txt").write_text("".join(f"{c}\n" for c in described["classes"]), encoding="utf-8")
        self._copy_model(version, artifact)
        shutil.copyfile(noise.__file__, folder / Path(noise.__file__).name)
        values = self._values(name, message, described, scales, recipe)
        for place, template in (
            ("README.md", "README.md"),
            ("client.py", "client.py"),
            ("kubernetes/inferenceservice.yaml", "inferenceservice.yaml"),
            ("kubernetes/Dockerfile", f"Dockerfile.{self.what.backend}"),
        ):
            (folder / place).parent.mkdir(exist_ok=True)
            text = (self.templates / template).read_text(encoding="utf-8")
            (folder / place).write_text(fill(text, values), encoding="utf-8")
        return {"model": name, "backend": self.what.backend, "num_inference_steps": len(steps)}

    def _copy_model(self, version: Path, artifact: stages.Stage) -> None:
        """What Triton loads. Files that a graph names (its weights) keep their names."""
        if self.what.backend == "python":
            for source in (*(self.templates / module for module in MODULES), Path(noise.__file__)):
                shutil.copyfile(source, version / source.name)
            for name in (*artifact.manifest["files"], stages.MANIFEST, stages.SIDECAR):
                (version / "artifact" / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(artifact.folder / name, version / "artifact" / name)
            return
        entry = artifact.manifest["artifact"]["graphs"]["sampler"]
        _, file = triton_config.ENGINES[self.what.backend]
        for name in loaded(entry):
            shutil.copyfile(artifact.folder / name, version / (file if name == entry["file"] else name))

    def _values(
        self, name: str, message: dict[str, Any], described: dict[str, Any], scales: list[float], recipe: Recipe
    ) -> dict[str, str]:
        """What the templates' placeholders stand for."""
        on_gpu = message["instance_group"][0]["kind"] == "KIND_GPU"
        rows = [
            f"| `{t['name']}` | {t['data_type'].removeprefix('TYPE_')} | {t['dims']} | "
            f"{'optional' if t.get('optional') else 'required'} |"
            for t in message["input"]
        ]
        made = message["output"][0]
        notes = (self.templates / f"notes.{self.what.backend}.md").read_text(encoding="utf-8").rstrip("\n")
        values = {
            "model": name,
            # A resource's name in Kubernetes has small letters, digits and hyphens.
            "service": re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-"),
            "classes": str(len(described["classes"])),
            "last_label": str(len(described["classes"]) - 1),
            "steps": str(len(scales)),
            "guidance": guidance.label(recipe.sampling.guidance),
            "inputs": "\n".join(rows),
            "output": f"`{made['name']}` {made['data_type'].removeprefix('TYPE_')} {made['dims']}",
            "max_batch_size": str(self.what.max_batch_size),
            "max_queue_delay_us": str(self.what.max_queue_delay_us),
            "scale_target": str(2 * self.what.max_batch_size),
            "max_replicas": str(self.what.max_replicas),
            "gpu": '\n          nvidia.com/gpu: "1"' if on_gpu else "",
            "onnxruntime": "onnxruntime-gpu" if on_gpu else "onnxruntime",
            "onnxruntime_version": stages.versions().get("onnxruntime", "1.20.0"),
        }
        return {**values, "notes": fill(notes, values)}


def schedule(described: dict[str, Any], recipe: Recipe) -> tuple[list[int], list[float]]:
    """Timesteps of the sampler graph, or of the recipe where there is none; and the recipe's w at each of them."""
    total = described["num_train_timesteps"]
    steps = (described.get("sampler") or {}).get("timesteps")
    if steps is None:
        steps = sampling.plan(recipe.sampling, total).timesteps
    return list(steps), [guidance.weight(recipe.sampling.guidance, t, total) for t in steps]
