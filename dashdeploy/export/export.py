"""The export stage: carry out a deployment target and leave an artifact folder that has passed parity."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from dashdeploy import run
from dashdeploy.diffusion.denoiser import Interface, TorchDenoiser
from dashdeploy.errors import UserError
from dashdeploy.export import graphs, onnx_graph, parity
from dashdeploy.recipe.schema import Recipe
from dashdeploy.runtime import onnxruntime_model
from dashdeploy.runtime.open import ARTIFACTS
from dashdeploy.target import Target
from dashdeploy.teachers import formats


def export(run_folder: Path, target: Target, *, fresh: bool = False) -> run.Stage:
    """Export run_folder/student for `target` into run_folder/artifacts/<target>, or return what is there already.

    Raises:
        UserError: no student, a failed export, or parity past the target's limits; then no artifact is left.
    """
    student = run.read_stage(run_folder / "student")
    recipe = Recipe.model_validate(student.manifest["recipe"])
    folder = run_folder / ARTIFACTS / target.name
    inputs = {"student": student.sha256, "target": target.model_dump(mode="json")}
    key = run.stage_key("export", **inputs)
    done = None if fresh else run.current(folder, key)
    if done is not None:
        return done
    folder.parent.mkdir(exist_ok=True)
    denoiser = formats.load(student.folder, role="student")
    traced = denoiser
    if target.group_norm == "instance":
        traced = TorchDenoiser(graphs.with_instance_group_norm(denoiser.unet), denoiser.interface)
    described = describe(student, recipe, target, denoiser.interface)
    with run.write_stage(folder, key=key, recipe=recipe, inputs=inputs) as draft:
        path = onnx_graph.export(
            graphs.Guided(traced),
            graphs.example_inputs(denoiser),
            draft.folder,
            inputs=graphs.GUIDED_INPUTS,
            output=graphs.GUIDED_OUTPUT,
            opset=target.opset,
            metadata=described,
            single_file_mb=target.single_file_mb,
        )
        checks = len(target.parity.batch_sizes) * target.parity.t_bins
        with (
            onnxruntime_model.open_file(path, threads=None, providers=list(target.providers)) as model,
            Progress(console=Console(stderr=True), transient=True) as progress,
        ):
            task = progress.add_task(f"parity {target.name}", total=checks)
            report = parity.check(
                model.denoiser,
                denoiser,
                target.parity,
                scale=recipe.sampling.guidance,
                seed=recipe.seed,
                on_row=lambda: progress.advance(task),
            )
        draft.figures.update(parity=report.as_dict(), bytes=path.stat().st_size)
        draft.artifact.update(
            described,
            backend=target.backend,
            file=path.name,
            providers=list(target.providers),
            inputs=tensors(denoiser.interface.image_shape),
            outputs=[
                {"name": graphs.GUIDED_OUTPUT, "dtype": "float32", "shape": ["batch", *denoiser.interface.image_shape]}
            ],
        )
    return run.read_stage(folder)


def describe(student: run.Stage, recipe: Recipe, target: Target, interface: Interface) -> dict[str, Any]:
    """What a runtime must know, stored both in the model file and in the manifest."""
    classes = student.figures["classes"]
    if len(classes) != interface.num_classes:
        raise UserError(f"{student.folder}: {len(classes)} class names for {interface.num_classes} classes")
    return {
        "graph": target.graph,
        "precision": target.precision,
        "opset": target.opset,
        "prediction_type": "epsilon",
        "num_classes": interface.num_classes,
        "null_class": interface.null_class,
        "classes": classes,
        "image_shape": list(interface.image_shape),
        "parameters": student.figures["parameters"],
        "num_train_timesteps": interface.schedule.num_train_timesteps,
        "betas": interface.schedule.betas.tolist(),
        "schedule_sha256": interface.schedule.sha256,
        "sampling": recipe.sampling.model_dump(mode="json"),
        "student_sha256": student.sha256,
        "recipe_sha256": run.digest(recipe.model_dump(mode="json")),
    }


def tensors(image_shape: tuple[int, int, int]) -> list[dict[str, Any]]:
    """The guided graph's inputs, as the manifest lists them."""
    return [
        {"name": "x", "dtype": "float32", "shape": ["batch", *image_shape]},
        {"name": "t", "dtype": "int64", "shape": ["batch"]},
        {"name": "y", "dtype": "int64", "shape": ["batch"]},
        {"name": "w", "dtype": "float32", "shape": ["batch"]},
    ]
