"""The cond, step and sampler graphs follow torch's sampler, and a wrong schedule is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from dashdeploy.artifact import SIGNATURES
from dashdeploy.diffusion.denoiser import TorchDenoiser
from dashdeploy.diffusion.sampling import Plan, plan
from dashdeploy.errors import UserError
from dashdeploy.export.checks import sampling_check
from dashdeploy.export.graph import onnx_file, sampler_graph
from dashdeploy.recipe.schema import Tag
from dashdeploy.runtime.onnx_session import OnnxSession
from dashdeploy.runtime.onnxruntime_model import HostSession
from tests.export.conftest import SAMPLING, export_graph

PLAN = plan(SAMPLING, 1000)
RENOISED = replace(PLAN, solver="consistency")
LIMITS = {"step_error": 1e-4, "image_error": 1e-3, "max_difference": 1e-3}


@pytest.fixture(scope="module", params=[PLAN, RENOISED], ids=lambda run: run.solver)
def run(request: pytest.FixtureRequest) -> Plan:
    return request.param


@pytest.fixture(scope="module")
def path(trained: TorchDenoiser, run: Plan) -> sampling_check.Trajectory:
    return sampling_check.trajectory(trained, run, scale=Tag(), seed=0, batch_size=5)


def session(file: Path, inputs: tuple[str, ...]) -> HostSession:
    return HostSession(OnnxSession(file, inputs=inputs, threads=1), inputs)


def assembled(step: Path, file: Path, trained: TorchDenoiser, run: Plan, form: str, output="float32") -> HostSession:
    alpha_bar = trained.interface.schedule.alphas_cumprod_from_clean.numpy()
    renoise = alpha_bar if run.solver == "consistency" else None
    model = sampler_graph.assemble(onnx.load(step), run.timesteps, form=form, output=output, renoise=renoise)
    onnx_file.save(model, file, metadata={}, single_file_mb=100)
    return session(file, SIGNATURES["sampler"][0])


def test_the_step_graph_follows_torch_step_by_step_and_to_the_end(
    trained: TorchDenoiser, step_onnx: Path, path, run: Plan
) -> None:
    found = sampling_check.check_step(session(step_onnx, SIGNATURES["step"][0]), path, run, trained.interface.schedule)
    sampling_check.require(found, **LIMITS)
    # A step of consistency ends in x_0 = eps/√ᾱ (and more): the noisiest step magnifies the rounding of eps by this.
    noisiest = float(trained.interface.schedule.alphas_cumprod[run.timesteps[0]].sqrt())
    assert 0 < found.step_error < (1e-6 / noisiest if run.solver == "consistency" else 1e-5)
    assert found.max_difference < 1e-4


def test_the_cond_graph_gives_either_branch(trained: TorchDenoiser, path, run: Plan, tmp_path: Path) -> None:
    graph = session(export_graph(trained, "cond", tmp_path / "cond.onnx"), SIGNATURES["cond"][0])
    assert sampling_check.check_cond(graph, trained, path, run).step_error < 1e-5
    other = sampling_check.check_cond(graph, TorchDenoiser(trained.unet, trained.interface), path, run)
    assert other.step_error < 1e-5


@pytest.mark.parametrize("form", ["loop", "unrolled"])
@pytest.mark.parametrize("output", ["float32", "uint8"])
def test_the_sampler_graph_gives_the_images_of_the_host_loop(
    trained: TorchDenoiser, step_onnx: Path, path, run: Plan, tmp_path: Path, form: str, output: str
) -> None:
    graph = assembled(step_onnx, tmp_path / "sampler.onnx", trained, run, form, output)
    images = graph(path.noise, path.y, path.w)
    assert images.dtype == getattr(torch, output) and images.shape == path.after[-1].shape
    found = sampling_check.check_sampler(graph, path)
    # One level of 255 where a value lies on the border between two.
    assert found.max_difference < (1e-4 if output == "float32" else 1.01 * 2 / 255)


def test_wrong_alphas_cumprod_are_refused(trained: TorchDenoiser, path, run: Plan, tmp_path: Path) -> None:
    file = export_graph(trained, "step", tmp_path / "step.onnx")
    model = onnx.load(file)
    for tensor in model.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.shape == (1001,):
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.roll(values, 40), tensor.name))
            break
    else:
        pytest.fail("the graph has no table of alphas_cumprod")
    onnx.save(model, file)
    found = sampling_check.check_step(session(file, SIGNATURES["step"][0]), path, run, trained.interface.schedule)
    with pytest.raises(UserError, match="the step graph does not follow torch: error of a single step"):
        sampling_check.require(found, **LIMITS)
    sampler = sampling_check.check_sampler(assembled(file, tmp_path / "sampler.onnx", trained, run, "loop"), path)
    with pytest.raises(UserError, match="the sampler graph does not follow torch: error of the final images"):
        sampling_check.require(sampler, **LIMITS)


def test_other_timesteps_are_refused(trained: TorchDenoiser, step_onnx: Path, path, run: Plan, tmp_path: Path) -> None:
    shifted = replace(run, timesteps=tuple(max(0, t - 60) for t in run.timesteps))
    graph = assembled(step_onnx, tmp_path / "sampler.onnx", trained, shifted, "loop")
    with pytest.raises(UserError, match="sampler graph does not follow"):
        sampling_check.require(sampling_check.check_sampler(graph, path), **LIMITS)


def test_noise_of_another_step_is_refused(trained: TorchDenoiser, step_onnx: Path, tmp_path: Path) -> None:
    path = sampling_check.trajectory(trained, RENOISED, scale=Tag(), seed=0, batch_size=5)
    graph = assembled(step_onnx, tmp_path / "sampler.onnx", trained, RENOISED, "unrolled")
    turned = replace(path, noise=torch.cat([path.noise[:, :1], path.noise[:, 1:].roll(1, 1)], 1))
    with pytest.raises(UserError, match="sampler graph does not follow"):
        sampling_check.require(sampling_check.check_sampler(graph, turned), **LIMITS)
