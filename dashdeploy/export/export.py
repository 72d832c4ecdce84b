"""The export stage: carry out a deployment target and leave an artifact folder that has passed its checks."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from dashdeploy import stages
from dashdeploy.diffusion.denoiser import TorchDenoiser
from dashdeploy.diffusion.sampling import plan
from dashdeploy.errors import UserError
from dashdeploy.export import describe
from dashdeploy.export.checks import gate
from dashdeploy.export.checks.verify import Verification, verify
from dashdeploy.export.graph import graphs, onnx_graph, rewrite, sampler_graph
from dashdeploy.export.int8.int8 import Int8, gate_of
from dashdeploy.lazy import resolve
from dashdeploy.package import Package
from dashdeploy.recipe.schema import Recipe
from dashdeploy.runtime.opening import ARTIFACTS
from dashdeploy.target import Target
from dashdeploy.teachers import formats, networks

BACKENDS: dict[str, str] = {
    "onnxruntime": "dashdeploy.export.backends.onnxruntime:Backend",
    "openvino": "dashdeploy.export.backends.openvino:Backend",
    "tensorrt": "dashdeploy.export.backends.tensorrt:Backend",
    "tensorrt_rtx": "dashdeploy.export.backends.tensorrt:Backend",
}
"""Backend name -> ``(target, cache folder) -> object`` with `ready()` and `build(...)`, see backend_onnxruntime."""


def export(run_folder: Path, target: Target, *, fresh: bool = False) -> stages.Stage:
    """Export run_folder/student for `target` into run_folder/artifacts/<target>, or return what is there already.

    Raises:
        UserError: no student, a backend that is missing here, a failed export or build, or figures past the target's
            limits; then no artifact is left.
    """
    student = stages.read_stage(run_folder / "student")
    recipe = Recipe.model_validate(student.manifest["recipe"])
    if recipe.data.gives_latents and "sampler" in target.graphs:
        raise UserError(
            f"target {target.name}: its sampler graph ends in images within [-1, 1], and {run_folder} was trained on "
            "latents. Take a target file with graphs: [guided, cond, step]."
        )
    folder = run_folder / ARTIFACTS / target.name
    inputs = {"student": student.sha256, "target": target.model_dump(mode="json")}
    if recipe.sampling.solver != "ddim":  # artifacts from before there was a choice stay current
        inputs["solver"] = recipe.sampling.solver
    backend = resolve("backend", BACKENDS, target.backend)(target, run_folder / ".engines")
    key = stages.stage_key("artifact", recipe, {**inputs, "backend": backend.identity()})
    done = None if fresh else stages.current(folder, key)
    if done is not None:
        return done
    backend.ready()
    folder.parent.mkdir(exist_ok=True)
    denoiser = formats.load(student.folder, role="student")
    if target.precision == "int8" and isinstance(denoiser.unet, networks.CLASSES[networks.DIT]):
        raise UserError(
            f"target {target.name}: int8 is of convolutions, and of {run_folder}'s DiT only the patches are one. "
            "Take a target with precision fp16 or bf16."
        )
    with (
        stages.write_stage(folder, key=key, recipe=recipe, inputs=inputs) as draft,
        tempfile.TemporaryDirectory(prefix="dashdeploy-export-") as work,
        Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            transient=True,
        ) as progress,
    ):
        job = Export(student, recipe, target, denoiser, Path(work), draft.folder, progress)
        paths = job.onnx_graphs()
        draft.artifact.update(job.described)
        draft.artifact["graphs"] = {name: job.entry(name, path) for name, path in paths.items()}
        backend.build(draft, int8=job.int8, progress=progress)
        draft.figures.update(job.verify(draft.artifact).as_dict())
        if job.int8 is not None:
            draft.figures["int8"] = job.int8.as_dict()
        names = {name for entry in draft.artifact["graphs"].values() for name in entry["files"]}
        draft.figures["bytes"] = sum((draft.folder / name).stat().st_size for name in names)
    return stages.read_stage(folder)


class Export:
    """One export under way."""

    def __init__(
        self,
        student: stages.Stage,
        recipe: Recipe,
        target: Target,
        denoiser: TorchDenoiser,
        work: Path,
        folder: Path,
        progress: Progress,
    ) -> None:
        self.student, self.recipe, self.target, self.denoiser = student, recipe, target, denoiser
        self.work, self.folder, self.progress = work, folder, progress
        steps = target.sampler.num_inference_steps or recipe.sampling.num_inference_steps
        self.sampling = recipe.sampling.model_copy(update={"num_inference_steps": steps})
        self.plan = plan(self.sampling, denoiser.interface.schedule.num_train_timesteps)
        self.described = {
            **describe.describe(student, recipe, target, denoiser.interface),
            "backend": target.backend,
            "macs": describe.macs(denoiser),
        }
        if "sampler" in target.graphs:
            self.described["sampler"] = {
                "timesteps": list(self.plan.timesteps),
                "form": target.sampler.form,
                "output": target.sampler.output,
            }
        self.int8: Int8 | None = None

    def onnx_graphs(self) -> dict[str, Path]:
        """Every graph of the target as an ONNX file in the artifact's folder, in the order of the target."""
        precision = "fp32" if self.target.precision == "int8" else self.target.precision
        rewritten = rewrite.for_export(self.denoiser, group_norm=self.target.group_norm, precision=precision)
        if self.target.precision == "int8":
            sampling, seed = self.recipe.sampling, self.recipe.seed
            self.int8 = Int8(self.denoiser, sampling, self.target, self.work, self.gate, seed=seed)
        traced = [name for name in graphs.GRAPHS if name in self.target.graphs or self._is_source(name)]
        task = self.progress.add_task(f"{self.target.name}: graphs", total=len(traced))
        models = {}
        for name in traced:
            models[name] = self._one(name, rewritten)
            self.progress.advance(task)
        if "sampler" in self.target.graphs:
            options = self.target.sampler
            models["sampler"] = sampler_graph.assemble(
                models["step"], self.plan.timesteps, form=options.form, output=options.output
            )
        return {name: self._save(name, models[name]) for name in self.target.graphs}

    def _is_source(self, name: str) -> bool:
        """Whether this graph is needed to make the sampler's."""
        return name == "step" and "sampler" in self.target.graphs

    def _one(self, name: str, rewritten: TorchDenoiser) -> Any:
        path = self._trace(name, rewritten, self.work / f"{name}.onnx")
        if self.int8 is not None and not self.int8.by_nncf:
            return self.int8.quantized(name, path, progress=self.progress)
        return onnx_graph.load(path)

    def _save(self, name: str, model: Any) -> Path:
        if not (self.int8 is not None and self.int8.by_nncf):  # NNCF quantizes after this
            onnx_graph.require_precision(model, self.target.precision, graph=name)
        shared = {k: v for k, v in self.described.items() if k != "sampler"}
        path = self.folder / f"{name}.onnx"
        return onnx_graph.save(
            model, path, metadata={"graph": name, **shared}, single_file_mb=self.target.single_file_mb
        )

    def entry(self, name: str, path: Path) -> dict[str, Any]:
        """The manifest's entry of a graph."""
        return describe.graph_entry(
            path,
            name,
            image_shape=self.denoiser.interface.image_shape,
            num_steps=len(self.plan.timesteps),
            output=self.target.sampler.output,
        )

    def verify(self, artifact: dict[str, Any]) -> Verification:
        """All checks of the finished artifact."""
        return verify(
            self.folder,
            artifact,
            self.denoiser,
            self.target,
            self.sampling,
            plan=self.plan,
            seed=self.recipe.seed,
            ladder=None if self.target.precision == "fp32" else self.gate,
            float_graph=self._float_graph(),
            progress=self.progress,
        )

    def _float_graph(self) -> Path | None:
        """The guided graph in float32, which a lower precision is compared with."""
        if self.target.precision == "fp32":
            return None
        if self.target.precision == "int8":
            return self.work / "guided.onnx"
        plain = rewrite.for_export(self.denoiser, group_norm=self.target.group_norm, precision="fp32")
        return self._trace("guided", plain, self.work / "float-guided.onnx")

    def _trace(self, name: str, rewritten: TorchDenoiser, path: Path) -> Path:
        return onnx_graph.export_graph(
            rewritten,
            name,
            path,
            clip_sample=self.recipe.sampling.clip_sample,
            opset=self.target.opset,
            single_file_mb=self.target.single_file_mb,
        )

    @cached_property
    def gate(self) -> gate.Gate:
        """The student's guidance gate; int8's search and the finished artifact are judged by the same one."""
        return gate_of(self.denoiser, self.sampling, self.target, seed=self.recipe.seed)


def summary(stage: stages.Stage) -> str:
    """One line of what an export measured."""
    found = stage.figures
    parts = [f"{found['bytes'] / 1e6:.2f} MB"]
    if "parity" in found:
        parts.append(f"parity with torch {found['parity']['worst']['relative_error']:.1e}")
    if "gate" in found:
        overall = found["gate"]["rungs"][-1]["overall"]
        parts.append(f"guidance gate: gap error {overall['relative_error']:.4f}, cosine {overall['energy_cosine']:.4f}")
    parts += [found["verified"]] if found.get("verified") else []
    artifact = stage.manifest["artifact"]
    solver, of_ddim = describe.solver(artifact), [g for g in ("step", "sampler") if g in artifact["graphs"]]
    if solver != "ddim" and of_ddim:
        parts.append(f"{solver} loops over guided on the host: {' and '.join(of_ddim)} hold DDIM's update")
    return f"{stage.folder}  {', '.join(parts)}"


def check_targets(targets: Sequence[Target | Package]) -> None:
    """Refuse two targets of one name: the second would replace the first.

    Raises:
        UserError: it gives the name.
    """
    names = [target.name for target in targets]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"--to: two targets are called {', '.join(twice)}; an artifact's folder is its target's name")
