"""Ours against plain diffusers from the same noise, for every family of teachers: python benchmarks/families.py

Small networks with random weights, saved as diffusers saves them. diffusers runs its own scheduler, scaling and loop
with classifier-free guidance; ours opens the same folder. Writes benchmarks/results/families.json.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch

from dashdeploy import stages
from dashdeploy.bench.measure.machine import machine
from dashdeploy.diffusion.sampling import Plan, ddim, plan
from dashdeploy.recipe.schema import Sampling
from dashdeploy.teachers import formats, paths

SEED, T, CLASSES, W = 0, 1000, 10, 2.0
STEPS = (4, 50)
SHAPE = (3, 16, 16)
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "DDPM, eps": ("DDIMScheduler", {}),
    "DDPM, v, zero terminal SNR": (
        "DDIMScheduler",
        {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True},
    ),
    "DDPM, x_0": ("DDIMScheduler", {"prediction_type": "sample"}),
    "rectified flow": ("FlowMatchEulerDiscreteScheduler", {}),
    "rectified flow, shift 3": ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}),
    "EDM": ("EDMEulerScheduler", {}),
    "EDM, v, exponential": ("EDMEulerScheduler", {"prediction_type": "v_prediction", "sigma_schedule": "exponential"}),
}
"""Name -> diffusers' scheduler and its settings."""


def network(kind: str) -> Any:
    """A small UNet or DiT with the null class."""
    torch.manual_seed(SEED)
    if kind == "UNet2DModel":
        unet: Any = diffusers.UNet2DModel(
            sample_size=SHAPE[1],
            in_channels=SHAPE[0],
            out_channels=SHAPE[0],
            block_out_channels=(32, 64),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            norm_num_groups=8,
            num_class_embeds=CLASSES + 1,
        )
        return unet.eval()
    dit: Any = diffusers.DiTTransformer2DModel(
        num_attention_heads=4,
        attention_head_dim=16,
        in_channels=SHAPE[0],
        out_channels=SHAPE[0],
        num_layers=4,
        sample_size=SHAPE[1],
        num_embeds_ada_norm=CLASSES,
    )
    return dit.eval()


def set_steps(scheduler: Any, run: Plan, noise: torch.Tensor) -> torch.Tensor:
    """Give diffusers' scheduler the timesteps of our plan; returns the noise as its loop starts from it."""
    rows = list(run.timesteps)
    known = paths.from_scheduler_config({**scheduler.config, "_class_name": type(scheduler).__name__}, source="")
    if known is None:
        scheduler.set_timesteps(len(rows))
        assert scheduler.timesteps.tolist() == rows
        return noise
    if type(scheduler).__name__ == "FlowMatchEulerDiscreteScheduler":
        scheduler.set_timesteps(sigmas=((np.array(rows) + 1) / T).tolist())
        return noise * float(known.scale[rows[0]])
    scheduler.set_timesteps(len(rows))
    sigmas = np.exp(4 * known.time[rows])
    scheduler.sigmas = torch.tensor([*sigmas.tolist(), 0.0])
    scheduler.timesteps = 0.25 * scheduler.sigmas[:-1].log()
    return noise * float(np.hypot(1, sigmas[0]))


@torch.no_grad()
def by_diffusers(net: Any, scheduler: Any, noise: torch.Tensor, y: torch.Tensor, run: Plan) -> torch.Tensor:
    """Its own loop."""
    x = set_steps(scheduler, run, noise)
    exact = {"use_clipped_model_output": True} if isinstance(scheduler, diffusers.DDIMScheduler) else {}
    for t in scheduler.timesteps:
        given = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        labels = torch.cat([torch.full_like(y, CLASSES), y])
        both = net(torch.cat([given, given]), t.expand(2 * len(y)), labels, return_dict=False)[0]
        uncond, cond = both.chunk(2)
        x = scheduler.step(uncond + W * (cond - uncond), t, x, **exact).prev_sample
    return x


def compare(kind: str, scheduler_name: str, settings: dict[str, Any], folder: Path) -> dict[str, float]:
    """Largest difference of a value, relative to the largest value, by number of steps."""
    clips = scheduler_name == "DDIMScheduler"
    extra = {"timestep_spacing": "trailing", "clip_sample": True} if clips else {}
    scheduler = getattr(diffusers, scheduler_name)(num_train_timesteps=T, **settings, **extra)
    net = network(kind)
    net.save_pretrained(folder / ("unet" if kind == "UNet2DModel" else "transformer"))
    scheduler.save_pretrained(folder / "scheduler")
    teacher = formats.load(folder, role="teacher")
    noise = torch.randn((8, *SHAPE), generator=torch.Generator().manual_seed(SEED))
    y = torch.arange(8) % CLASSES
    found = {}
    for steps in STEPS:
        run = plan(Sampling(num_inference_steps=steps, guidance=W, clip_sample=clips), T)
        with torch.no_grad():
            ours = ddim(teacher, noise, y, run)
        theirs = by_diffusers(net, scheduler, noise, y, run)
        found[str(steps)] = float((ours - theirs).abs().max() / theirs.abs().max())
    return found


def main() -> None:
    torch.set_num_threads(1)
    rows = []
    for family, (name, settings) in FAMILIES.items():
        for kind in ("UNet2DModel", "DiTTransformer2DModel"):
            with tempfile.TemporaryDirectory() as folder:
                difference = compare(kind, name, settings, Path(folder))
            rows.append({"family": family, "scheduler": name, "network": kind, "difference": difference})
            print(rows[-1])
    result = {"machine": machine(), "versions": stages.versions(), "seed": SEED, "guidance": W, "rows": rows}
    path = Path(__file__).parent / "results" / "families.json"
    path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
