"""A trained network to be damaged: the committed digits teacher, as a float32 denoiser, its gate, and its graphs."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch

from dashdeploy.diffusion.denoiser import Interface, TorchDenoiser
from dashdeploy.export.checks import gate, trajectories
from dashdeploy.export.graph import onnx_file, rewrite
from dashdeploy.export.graph.compose import student_graphs
from dashdeploy.export.int8 import quantize
from dashdeploy.locate import data_root
from dashdeploy.recipe.schema import Sampling
from dashdeploy.runtime.onnxruntime_model import open_guided
from dashdeploy.target import GateLimits
from dashdeploy.teachers import formats

SAMPLING = Sampling(num_inference_steps=8, guidance=2.0)


@pytest.fixture(scope="session")
def trained() -> TorchDenoiser:
    torch.set_num_threads(1)
    denoiser = formats.load(data_root("recipes") / "teachers" / "digits", role="teacher")
    return TorchDenoiser(denoiser.unet.float().eval(), denoiser.interface)


@pytest.fixture(scope="session")
def draws(trained: TorchDenoiser):
    """Two sets: what calibration may see, and what the gate judges on."""
    return [trajectories.draw(trained, SAMPLING, num_images=8, num_points=8, seed=seed) for seed in (1, 2)]


@pytest.fixture(scope="session")
def its_gate(trained: TorchDenoiser, draws) -> gate.Gate:
    return gate.prepare(trained, draws[1], GateLimits(t_bins=4), scale=2.0)


def export_graph(denoiser: TorchDenoiser, name: str, path: Path, *, precision: str = "fp32", opset: int = 20) -> Path:
    """One graph of a denoiser."""
    rewritten = rewrite.for_export(denoiser, group_norm="instance", precision=precision)
    [(_, model)] = student_graphs(rewritten, [name], clip_sample=True, opset=opset)
    return onnx_file.save(model, path, metadata={}, single_file_mb=100)


@pytest.fixture(scope="session")
def guided_onnx(trained: TorchDenoiser, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_graph(trained, "guided", tmp_path_factory.mktemp("guided") / "guided.onnx")


@pytest.fixture(scope="session")
def step_onnx(trained: TorchDenoiser, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_graph(trained, "step", tmp_path_factory.mktemp("step") / "step.onnx")


@pytest.fixture(scope="session")
def calibrated(guided_onnx: Path, draws, tmp_path_factory: pytest.TempPathFactory) -> quantize.Calibrated:
    reader = quantize.Reader(draws[0], ("x", "t", "y", "w"), null_class=10, scale=2.0)
    return quantize.calibrate(guided_onnx, tmp_path_factory.mktemp("calibration"), reader, method="minmax")


def opened(model: onnx.ModelProto, path: Path, interface: Interface):
    return open_guided(onnx_file.save(model, path, metadata={}, single_file_mb=100), interface, threads=1)
