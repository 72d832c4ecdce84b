"""What a runtime must know of an artifact: stored both in its graphs and in its manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from dashdeploy import stages
from dashdeploy.diffusion.denoiser import Interface, TorchDenoiser
from dashdeploy.errors import UserError
from dashdeploy.export.graph import onnx_graph
from dashdeploy.export.graph.graphs import GRAPHS, SAMPLER_INPUTS, SAMPLER_OUTPUT
from dashdeploy.recipe.schema import Recipe
from dashdeploy.target import Target


def describe(student: stages.Stage, recipe: Recipe, target: Target, interface: Interface) -> dict[str, Any]:
    """What every graph of the artifact shares."""
    classes = student.figures["classes"]
    if len(classes) != interface.num_classes:
        raise UserError(f"{student.folder}: {len(classes)} class names for {interface.num_classes} classes")
    return {
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
        "clip_sample": recipe.sampling.clip_sample,
        "sampling": recipe.sampling.model_dump(mode="json"),
        "student_sha256": student.sha256,
        "recipe_sha256": stages.digest(recipe.model_dump(mode="json")),
    }


def solver(artifact: dict[str, Any]) -> str:
    """Of the recipe that an artifact was made with; manifests from before there was a choice are DDIM's."""
    found: str = artifact["sampling"].get("solver", "ddim")
    return found


def graph_entry(path: Path, name: str, *, image_shape: tuple[int, int, int], num_steps: int, output: str) -> dict:
    """The manifest's entry of one graph: its files, and names, types and shapes of what goes in and comes out.

    Args:
        path: the ONNX file.
        num_steps: of the sampler graph.
        output: the sampler graph's type, float32 or uint8.
    """
    image = ["batch", *image_shape]
    shapes: dict[str, tuple[str, list[Any]]] = {
        **dict.fromkeys(("x", "noise"), ("float32", image)),
        **dict.fromkeys(("t", "t_prev", "y"), ("int64", ["batch"])),
        "w": ("float32", ["batch", num_steps] if name == "sampler" else ["batch"]),
    }
    inputs = SAMPLER_INPUTS if name == "sampler" else GRAPHS[name].inputs
    made = SAMPLER_OUTPUT if name == "sampler" else GRAPHS[name].output
    return {
        "file": path.name,
        "files": onnx_graph.files(path),
        "onnx_sha256": stages.file_sha256(path),
        "inputs": [{"name": n, "dtype": shapes[n][0], "shape": shapes[n][1]} for n in inputs],
        "outputs": [{"name": made, "dtype": output if name == "sampler" else "float32", "shape": image}],
    }


@torch.no_grad()
def macs(denoiser: TorchDenoiser) -> int:
    """Multiply–adds of one guided step of one image: those of convolutions and linear layers, both branches."""
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
        denoiser.branches(torch.zeros((1, *shape)), zero, zero)
    finally:
        for hook in hooks:
            hook.remove()
    return total
