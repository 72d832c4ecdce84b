"""Rectified flow and EDM: sampled by diffusers' own schedulers and by ours from the same noise, and distilled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiTTransformer2DModel, EDMEulerScheduler, FlowMatchEulerDiscreteScheduler

from dashdeploy.diffusion import guidance
from dashdeploy.diffusion.sampling import Plan, ddim, plan
from dashdeploy.errors import UserError
from dashdeploy.recipe.load import load_text
from dashdeploy.recipe.schema import Sampling
from dashdeploy.runtime.opening import open_path
from dashdeploy.stages import open_run
from dashdeploy.teachers import formats, paths
from dashdeploy.training.distill import distill

K, T = 3, 1000
Y = torch.arange(4) % K
W = 2.0
SCHEDULERS: dict[str, Any] = {
    "flow": FlowMatchEulerDiscreteScheduler(num_train_timesteps=T),
    "flow, shifted": FlowMatchEulerDiscreteScheduler(num_train_timesteps=T, shift=3.0),
    "edm": EDMEulerScheduler(num_train_timesteps=T),
    "edm, exponential": EDMEulerScheduler(
        num_train_timesteps=T, sigma_schedule="exponential", sigma_data=1.2, sigma_max=40.0
    ),
    "edm, v": EDMEulerScheduler(num_train_timesteps=T, prediction_type="v_prediction"),
}


def network() -> Any:
    torch.manual_seed(0)
    return DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=1,
        out_channels=1,
        num_layers=2,
        sample_size=8,
        num_embeds_ada_norm=K,
    ).eval()


@pytest.fixture(params=list(SCHEDULERS))
def saved(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    network().save_pretrained(tmp_path / "transformer")
    SCHEDULERS[request.param].save_pretrained(tmp_path / "scheduler")
    return tmp_path


def scheduler_of(folder: Path) -> Any:
    """The scheduler that was saved, of its own class."""
    config = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    kinds = {kind.__name__: kind for kind in (FlowMatchEulerDiscreteScheduler, EDMEulerScheduler)}
    return kinds[config["_class_name"]].from_pretrained(folder, subfolder="scheduler")


@torch.no_grad()
def by_diffusers(folder: Path, noise: torch.Tensor, run: Plan) -> torch.Tensor:
    """diffusers' own loop: its scheduler, its scaling of the input, and its step, with classifier-free guidance."""
    net = DiTTransformer2DModel.from_pretrained(folder, subfolder="transformer").eval()
    scheduler = scheduler_of(folder)
    path = paths.from_scheduler_config({**scheduler.config, "_class_name": type(scheduler).__name__}, source="x")
    assert path is not None
    rows = list(run.timesteps)
    if isinstance(scheduler, EDMEulerScheduler):
        # Its sigmas are a function of ramps from the most noise to the least.
        scheduler.set_timesteps(len(rows))
        scheduler.sigmas = torch.tensor([*np.exp(4 * path.time[rows]).tolist(), 0.0])
        scheduler.timesteps = 0.25 * scheduler.sigmas[:-1].log()
        x = noise * float(np.sqrt(1 + np.exp(4 * path.time[rows[0]]) ** 2))
    else:
        plain = (np.array(rows) + 1) / T  # before the shift, which the scheduler adds
        scheduler.set_timesteps(sigmas=plain.tolist())
        x = noise * float(path.scale[rows[0]])
    for t in scheduler.timesteps:
        given = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        time = t.expand(2 * len(Y))
        labels = torch.cat([torch.full_like(Y, K), Y])
        uncond, cond = net(torch.cat([given, given]), time, labels).sample.chunk(2)
        x = scheduler.step(uncond + W * (cond - uncond), t, x).prev_sample
    return x


@pytest.mark.parametrize("steps", [1, 4, 25])
def test_the_same_noise_gives_the_images_of_diffusers(saved: Path, steps: int) -> None:
    teacher = formats.load(saved, role="teacher")
    assert teacher.interface.prediction == "v_prediction" and not teacher.is_native
    run = plan(Sampling(num_inference_steps=steps, guidance=W, clip_sample=False), T)
    noise = torch.randn((4, 1, 8, 8), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours = ddim(teacher, noise, Y, run)
    theirs = by_diffusers(saved, noise, run)
    assert theirs.abs().max() > 0.5
    assert (ours - theirs).abs().max() / theirs.abs().max() < 1e-4


def test_it_predicts_v_of_ddpms_path(saved: Path) -> None:
    teacher = formats.load(saved, role="teacher")
    assert isinstance(teacher, paths.PathDenoiser)
    alpha_bar = teacher.interface.schedule.alphas_cumprod.double()
    assert (alpha_bar.diff() < 0).all() and alpha_bar[0] > 0.99
    held = torch.from_numpy(teacher.path.alphas_cumprod)
    torch.testing.assert_close(alpha_bar, held, rtol=1e-5, atol=1e-7)
    x, t = torch.randn(4, 1, 8, 8), torch.tensor([0, 100, 500, 999])
    with torch.no_grad():
        both = torch.cat(teacher.branches(x, t, Y))
        torch.testing.assert_close(
            teacher.guided(x, t, Y, torch.full((4,), W)), guidance.combine(*both.chunk(2), torch.full((4,), W))
        )
        torch.testing.assert_close(teacher(x, t, Y), both[4:], rtol=1e-4, atol=1e-5)


def test_a_student_of_such_a_teacher_is_an_ordinary_one(tmp_path: Path) -> None:
    network().save_pretrained(tmp_path / "teacher" / "transformer")
    SCHEDULERS["flow"].save_pretrained(tmp_path / "teacher" / "scheduler")
    images = np.random.default_rng(0).normal(size=(12, 1, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "x.npz", latents=images, labels=np.arange(12) % K)
    text = f"""
name: flow
data: {{name: latents, path: {tmp_path}/x.npz}}
teacher: {{path: {tmp_path}/teacher, check: false}}
student: {{compression: 1.5}}
distill: {{steps: 2, batch_size: 4, warmup_steps: 1, threads: 1}}
sampling: {{num_inference_steps: 4, clip_sample: false}}
"""
    stage = distill(load_text(text, name="flow"), open_run(tmp_path, "flow"))
    student = formats.load(stage.folder, role="student")
    assert student.is_native and student.interface.prediction == "v_prediction"
    assert student.interface.schedule.zero_terminal_snr
    with open_path(stage.folder) as model:
        run = plan(model.sampling, T)
        assert model.sample(torch.randn(2, 1, 8, 8), torch.tensor([0, 1]), run).isfinite().all()
    for override in ("student.init={kind: pruned}",):
        with pytest.raises(UserError, match=r"which is of another path \(flow matching or EDM\) than its students"):
            distill(load_text(text, name="flow", overrides=[override]), open_run(tmp_path, "other"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_dynamic_shifting": True}, "use_dynamic_shifting is True: the path then depends on more"),
        ({"shift": 0}, "shift must be a number above 0, got 0"),
        ({"num_train_timesteps": "many"}, "num_train_timesteps must be a whole number"),
        ({"_class_name": "EDMEulerScheduler", "sigma_min": 90}, "sigma_min 90 is not below sigma_max 80"),
        ({"_class_name": "EDMEulerScheduler", "sigma_schedule": "linear"}, "sigma_schedule 'linear' is not supported"),
        ({"_class_name": "EDMEulerScheduler", "prediction_type": "sample"}, "prediction_type 'sample' is not"),
    ],
)
def test_settings_that_make_it_another_path_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        paths.from_scheduler_config({"_class_name": "FlowMatchEulerDiscreteScheduler", **changes}, source="x")
