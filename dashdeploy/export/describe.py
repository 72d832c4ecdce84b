"""What the manifest says of an artifact, worked out once: student, sampling plan, host thresholds, graphs."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from dashdeploy import stages
from dashdeploy.artifact import (
    Artifact,
    DecoderInfo,
    Graph,
    GraphName,
    Host,
    SamplingPlan,
    Student,
    WholeSampler,
    tensors,
)
from dashdeploy.diffusion.denoiser import Interface, TorchDenoiser
from dashdeploy.diffusion.sampling import plan
from dashdeploy.errors import UserError
from dashdeploy.export.graph import onnx_file
from dashdeploy.recipe.schema import Recipe, Sampling, Solver
from dashdeploy.target import Target

SMALL_MACS = 100_000_000
"""Multiply–adds of one guided step of one image, below which its operators are too short to share between threads."""
COND_GAIN, COND_GAIN_FEW = 0.1, 0.3
"""Measured on the digits student and on the paper's, on CPUs; see `artifact.Host`."""


def student(
    stage: stages.Stage, recipe: Recipe, target: Target, interface: Interface, decoder: DecoderInfo | None
) -> Student:
    """What every graph of the artifact says of the student, in its metadata too.

    Args:
        decoder: of its latents, which the artifact has too.

    Raises:
        UserError: the student's stage has another number of class names than classes.
    """
    classes = stage.figures["classes"]
    if len(classes) != interface.num_classes:
        raise UserError(f"{stage.folder}: {len(classes)} class names for {interface.num_classes} classes")
    return Student(
        precision=target.precision,
        prediction_type=interface.prediction,
        image_shape=interface.image_shape,
        latents=recipe.data.gives_latents,
        decoder=decoder,
        num_classes=interface.num_classes,
        null_class=interface.null_class,
        classes=tuple(classes),
        num_train_timesteps=interface.schedule.num_train_timesteps,
        betas=tuple(interface.schedule.betas.tolist()),
        schedule_sha256=interface.schedule.sha256,
        branches=interface.branches,
        guidance_range=interface.guidance_range,
        grids=interface.grids,
        parameters=stage.figures["parameters"],
        student_sha256=stage.sha256,
        recipe_sha256=stages.digest(recipe.model_dump(mode="json")),
    )


def artifact(
    student: Student,
    graphs: dict[GraphName, Graph],
    sampling: SamplingPlan,
    target: Target,
    *,
    sampler: WholeSampler | None,
    macs: int,
) -> Artifact:
    """The whole; `sampling` is of the recipe's section."""
    return Artifact(
        **student.model_dump(),
        backend=target.backend,
        opset=target.opset,
        macs=macs,
        providers=target.providers if target.backend == "onnxruntime" else (),
        host=host(macs),
        sampling=sampling,
        sampler=sampler,
        graphs=graphs,
    )


def host(macs: int) -> Host:
    """The thresholds for a network of so many multiply–adds."""
    return Host(small=macs < SMALL_MACS, cond_gain=COND_GAIN, cond_gain_few=COND_GAIN_FEW)


def sampling_plan(sampling: Sampling, interface: Interface) -> SamplingPlan:
    """The recipe's sampling with the recipe's number of steps.

    Raises:
        UserError: the student was not trained for it.
    """
    steps = plan(sampling, interface.schedule.num_train_timesteps, grids=interface.grids)
    interface.check_plan(steps)
    return SamplingPlan(
        timesteps=steps.timesteps,
        guidance_scales=steps.weights,
        solver=sampling.solver,
        timestep_spacing=sampling.timestep_spacing,
        guidance=sampling.guidance,
        clip_sample=sampling.clip_sample,
    )


def whole_sampler(sampling: Sampling, target: Target, interface: Interface) -> WholeSampler | None:
    """The target's sampler graph; `sampling` has its number of steps. None: the target has none.

    Raises:
        UserError: the student was not trained for it.
    """
    if "sampler" not in target.graphs:
        return None
    steps = plan(sampling, interface.schedule.num_train_timesteps, grids=interface.grids)
    interface.check_plan(steps)
    return WholeSampler(
        timesteps=steps.timesteps,
        guidance_scales=steps.weights,
        form=target.sampler.form,
        output=target.sampler.output,
        decode=target.sampler.decode,
    )


def graph(
    path: Path, name: GraphName, *, student: Student, solver: Solver, sampler: WholeSampler | None = None
) -> Graph:
    """The entry of one graph as it was exported, without an engine; `path` is its ONNX file."""
    inputs, outputs = tensors(
        name,
        student=student,
        sampler=sampler,
        solver=solver,
    )
    return Graph(
        file=path.name,
        files=tuple(onnx_file.files(path)),
        onnx_sha256=stages.file_sha256(path),
        inputs=inputs,
        outputs=outputs,
    )


@torch.no_grad()
def macs(denoiser: TorchDenoiser) -> int:
    """Multiply–adds of one guided step of one image: those of convolutions and linear layers, all branches."""
    total = 0

    def count(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal total
        weight = module.weight
        assert isinstance(weight, torch.Tensor)
        positions = output.numel() // weight.shape[0]
        total += positions * weight.numel()

    layers = [m for m in denoiser.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    try:
        shape = denoiser.interface.image_shape
        zero = torch.zeros(1, dtype=torch.int64)
        denoiser.guided(torch.zeros((1, *shape)), zero, zero, torch.ones(1))
    finally:
        for hook in hooks:
            hook.remove()
    return total
