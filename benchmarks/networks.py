"""The networks that the speed benchmarks time: a run's student, and the paper's pair with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DModel

from dashdeploy.artifact import SIGNATURES, GraphName
from dashdeploy.diffusion.denoiser import Interface, TorchDenoiser
from dashdeploy.diffusion.sampling import Plan
from dashdeploy.diffusion.schedule import NoiseSchedule
from dashdeploy.export import describe
from dashdeploy.export.graph import onnx_file, rewrite
from dashdeploy.export.graph.compose import student_graphs
from dashdeploy.runtime.graphs_model import GraphSampler
from dashdeploy.runtime.onnx_session import OnnxSession
from dashdeploy.runtime.onnxruntime_model import HostSession
from dashdeploy.runtime.opening import open_path
from dashdeploy.runtime.sessions import Graphs

PAPER = {"paper32": (64, 1, 6_082_627), "paper32-teacher": (128, 2, 35_751_939)}
"""Name -> channels of the first level, layers a block, parameters. Random weights serve for time, not for quality."""


def load(name: str) -> TorchDenoiser:
    """A paper network by its name, or the student of a run folder; on the CPU, float32."""
    if name in PAPER:
        return paper(name)
    denoiser = open_path(Path(name) / "student", device="cpu").denoiser
    assert isinstance(denoiser, TorchDenoiser)
    return denoiser


def paper(name: str) -> TorchDenoiser:
    """arXiv:2606.00798's architecture at 32×32×3 for ten classes."""
    channels, layers, parameters = PAPER[name]
    torch.manual_seed(0)
    unet: Any = UNet2DModel(
        sample_size=32,
        in_channels=3,
        out_channels=3,
        layers_per_block=layers,
        block_out_channels=(channels, 2 * channels, 2 * channels, 2 * channels),
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        num_class_embeds=11,
        attention_head_dim=None,
    )
    unet.eval()
    assert sum(p.numel() for p in unet.parameters()) == parameters
    schedule = NoiseSchedule(np.linspace(1e-4, 0.02, 1000))
    return TorchDenoiser(unet, Interface(10, (3, 32, 32), schedule))


def export(
    denoiser: TorchDenoiser,
    name: GraphName,
    path: Path,
    *,
    precision: rewrite.FloatPrecision,
    opset: int,
    group_norm: rewrite.GroupNormForm,
) -> Path:
    """One graph as an ONNX file, as the export stage makes it, without its checks."""
    rewritten = rewrite.for_export(denoiser, group_norm=group_norm, precision=precision)
    [(_, model)] = student_graphs(rewritten, [name], clip_sample=True, opset=opset)
    return onnx_file.save(model, path, metadata={}, single_file_mb=1000)


def cpu_sampler(path: Path, interface: Interface, steps: Plan, *, threads: int, macs: int = 0) -> GraphSampler:
    """A sampler graph's file for these timesteps, run as an artifact's model runs it on CPUs; macs 0: it is small."""

    def session(count: int) -> HostSession:
        inputs = SIGNATURES["sampler"][0]
        return HostSession(OnnxSession(path, inputs=inputs, threads=count), inputs)

    return GraphSampler(
        Graphs(("sampler",), lambda _: session(threads)),
        interface,
        clip_sample=steps.clip_sample,
        timesteps=steps.timesteps,
        host=describe.host(macs),
        narrow=Graphs(("sampler",), lambda _: session(1)),
        threads=threads,
    )
