"""int8 for a whole artifact: the draws that ranges come from, and the layers that stay in float in every graph."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import torch

from dashdeploy import seeds
from dashdeploy.artifact import SIGNATURES, GraphName
from dashdeploy.diffusion import guidance
from dashdeploy.diffusion.denoiser import Denoiser, Interface
from dashdeploy.export.checks import trajectories
from dashdeploy.export.checks.gate import Gate, asked
from dashdeploy.export.graph import onnx_file
from dashdeploy.export.int8 import quantize, quantize_nncf, sensitivity
from dashdeploy.figures import Int8Figures
from dashdeploy.metrics.gap import Probes
from dashdeploy.progress import Progress
from dashdeploy.recipe.schema import Sampling
from dashdeploy.runtime import openvino_model
from dashdeploy.runtime.graphs_model import GraphDenoiser
from dashdeploy.runtime.onnxruntime_model import open_guided
from dashdeploy.target import TENSORRT, Target


@dataclass(frozen=True)
class Draws:
    """What the activations' ranges come from: probes of both branches, and w of the graphs that have it as an input."""

    probes: Probes
    scale: float | torch.Tensor
    null_class: int

    def reader(self, name: GraphName) -> quantize.Reader:
        """The draws as the inputs of a graph."""
        inputs = SIGNATURES[name][0]
        return quantize.Reader(self.probes, inputs, null_class=self.null_class, scale=self.scale)


@dataclass(frozen=True)
class Int8:
    """How every graph of an artifact is quantized; `figures.Int8Figures` says what the fields are."""

    draws: Draws
    symmetric: bool
    float_layers: tuple[str, ...]
    damage: dict[str, float]

    def figures(self) -> Int8Figures:
        """What the manifest keeps."""
        t = self.draws.probes.t.tolist()
        return Int8Figures(
            calibration_draws=len(t),
            calibration_t=tuple(sorted(set(t))),
            symmetric=self.symmetric,
            float_layers=self.float_layers,
            damage=self.damage,
        )


def draw(denoiser: Denoiser, sampling: Sampling, target: Target, *, seed: int) -> Draws:
    """Draws along the student's trajectories, at the guidance scale of the middle timestep.

    Of one branch, through whose network w goes: at the scales that the gate judges at.
    """
    probes = trajectories.draw(
        denoiser,
        sampling,
        num_images=target.calibration.num_images,
        num_points=target.calibration.num_steps,
        seed=seeds.derive(seed, "calibration"),
    )
    steps = denoiser.interface.schedule.num_train_timesteps
    scale: float | torch.Tensor = guidance.weight(sampling.guidance, steps / 2, steps)
    if denoiser.interface.branches == 1:
        scale = asked(denoiser.interface, sampling.guidance, probes)
    return Draws(probes, scale, denoiser.interface.null_class)


def decide(
    draws: Draws,
    guided: Path,
    calibrated: quantize.Calibrated,
    target: Target,
    interface: Interface,
    gate: Gate,
    *,
    work: Path,
    progress: Progress,
) -> Int8:
    """Search on the guided graph for the layers that stay in float; the other graphs hold the same network.

    Args:
        guided: the guided graph in float32, which `calibrated` has the ranges of.
        work: folder for trial graphs.

    Raises:
        UserError: the gate fails with as many layers in float as the target allows.
    """
    task = progress.add_task(f"{target.name}: sensitive layers", total=len(calibrated.layers))
    layers = [layer for layer in calibrated.layers if layer not in quantize.ALWAYS_FLOAT]
    symmetric = target.backend in TENSORRT

    def by_onnxruntime(chosen: Collection[str]) -> GraphDenoiser:
        model = quantize.quantize(calibrated, layers=chosen, symmetric=symmetric)
        trial = onnx_file.save(model, work / "trial.onnx", metadata={}, single_file_mb=2000)
        return open_guided(trial, interface)

    def by_nncf(chosen: Collection[str]) -> GraphDenoiser:
        left = [layer for layer in calibrated.layers if layer not in chosen]
        model = quantize_nncf.quantize(guided, draws.reader("guided"), left)
        return openvino_model.of_guided(model, interface)

    search = sensitivity.search(
        layers,
        by_nncf if target.calibration.quantizer == "nncf" else by_onnxruntime,
        gate,
        most=target.calibration.float_layers,
        rank=by_onnxruntime,  # in any case: NNCF takes too long for one layer after the other
        on_layer=lambda: progress.advance(task),
    )
    return Int8(draws, symmetric, (*quantize.ALWAYS_FLOAT, *search.float_layers), search.damage)
