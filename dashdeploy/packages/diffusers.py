"""The diffusers package: the student as a network that plain diffusers opens, its scheduler, labels and a README.

A student of one branch becomes a plain network at one guidance scale, which is folded into its embedding of the labels
(`teachers/guidance_embedding.py`). A student of two branches is one already.
"""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

from dashdeploy import autoencoder, stages
from dashdeploy.diffusion.denoiser import Interface, TorchDenoiser
from dashdeploy.diffusion.grids import CLEAN, Grid
from dashdeploy.diffusion.sampling import plan, timesteps
from dashdeploy.errors import UserError
from dashdeploy.packages.schema import Diffusers, Package
from dashdeploy.packages.template import render
from dashdeploy.recipe.schema import Guidance, Recipe, Sampling
from dashdeploy.target import Target
from dashdeploy.teachers import formats, guidance_embedding, networks

DDIM = "DDIMScheduler"
FIRST_ORDER = {
    "_class_name": "DPMSolverMultistepScheduler",
    "algorithm_type": "dpmsolver++",
    "solver_order": 1,
    "final_sigmas_type": "zero",
    "sample_max_value": 1.0,
    "timestep_spacing": "trailing",
}
"""DPM-Solver++ of first order is DDIM (Lu et al. 2022, arXiv:2211.01095, Section 4), and takes any timesteps."""


def refuse(what: Target | Package, recipe: Recipe, w: Guidance | None) -> None:
    """Refuse a consistency student, a guidance scale that cannot be folded in, and one branch without any.

    Args:
        recipe: of the student.
        w: that was asked for. None: none.

    Raises:
        UserError: it says what to give.
    """
    if not (isinstance(what, Package) and isinstance(what.package, Diffusers)):
        if w is not None:
            raise UserError(
                f"-w: a guidance scale is folded in only by --to diffusers; {what.name} takes it when it samples. "
                "Leave out -w, or export the two one after the other."
            )
        return
    if recipe.sampling.solver == "consistency":
        raise UserError(
            f"{what.name}: the student samples by the solver consistency, which no scheduler of diffusers has. Export "
            "it to another target, such as onnx-cpu."
        )
    trained = recipe.distill.objective.guidance_range
    if recipe.student.branches == 2 or trained is None:
        if w is not None:
            raise UserError(
                f"{what.name}: the student has two branches, and diffusers guides it at any scale by classifier-free "
                "guidance. Leave out -w."
            )
        return
    span = f"from {trained[0]:g} to {trained[1]:g}"
    if w is None:
        raise UserError(
            f"{what.name}: the student has one branch, and the guidance scale is folded into it. Give it to "
            f"`dashdeploy export` by -w, {span}."
        )
    if not isinstance(w, float | int):
        raise UserError(
            f"{what.name}: one guidance scale is folded in for all timesteps, and -w asks for another at each. Give a "
            f"number {span}."
        )
    if not trained[0] <= w <= trained[1]:
        raise UserError(
            f"{what.name}: -w {w:g} is out of range: the student has one branch, which was trained for {trained[0]:g} "
            f"… {trained[1]:g}"
        )


def write(destination: Path, student: stages.Stage, recipe: Recipe, w: float | None, templates: Path) -> dict[str, Any]:
    """Write the folder into the empty `destination`; returns the stage's figures.

    Args:
        w: of a student of one branch; None: of two.

    Raises:
        UserError: see `scheduler`; or the student is damaged.
    """
    denoiser = formats.load(student.folder, role="student")
    interface, sampling = denoiser.interface, recipe.sampling
    plans = interface.grids or (plan(sampling, interface.schedule.num_train_timesteps).timesteps,)
    plans = tuple(sorted(plans, key=lambda grid: len(grid) != sampling.num_inference_steps))
    config = scheduler(interface, plans, sampling)
    network = plain(denoiser, w)
    networks.save(network, interface.schedule, destination, prediction=interface.prediction)
    (destination / "scheduler" / "scheduler_config.json").write_text(json.dumps(config, indent=2) + "\n")
    vae = student.folder / autoencoder.FOLDER
    decodes = autoencoder.is_there(student.folder)
    if decodes:
        shutil.copytree(vae, destination / autoencoder.FOLDER)
    classes = student.figures.get("classes") or list(map(str, range(interface.num_classes)))
    (destination / "labels.txt").write_text("".join(f"{name}\n" for name in classes), encoding="utf-8")
    name, total = type(network).__name__, interface.schedule.num_train_timesteps
    guided = sampling.guidance if isinstance(sampling.guidance, float | int) else 2.0
    values = {
        "recipe": recipe.name,
        "network": name,
        "subfolder": networks.FOLDERS[name],
        "scheduler": config["_class_name"],
        "branches": interface.branches,
        "w": f"{guided if w is None else w:g}",
        "num_classes": interface.num_classes,
        "labels": min(10, interface.num_classes),
        "shape": ", ".join(map(str, interface.image_shape)),
        "steps": [(len(grid), set_timesteps(grid, config, total)) for grid in plans],
        "clip": sampling.clip_sample,
        "latents": recipe.data.gives_latents,
        "vae": autoencoder.class_of(vae) if decodes else "",
        "few": bool(interface.grids),
        "lands": all(lands(grid, total) for grid in plans),
        "total": total,
    }
    (destination / "README.md").write_text(render(templates, "README.md", values), encoding="utf-8")
    return {"parameters": sum(p.numel() for p in network.parameters()), "guidance": w}


def plain(denoiser: TorchDenoiser, w: float | None) -> Any:
    """The network as a class of diffusers, in eval mode; w: of one branch, the guidance scale that is folded in."""
    own = denoiser.unet
    network = networks.build(networks.arguments(dict(own.config)), network=type(own).__name__)
    network.load_state_dict(own.state_dict() if w is None else guidance_embedding.folded(own, w))
    return network.eval()


def lands(grid: Grid, num_train_timesteps: int) -> bool:
    """Whether diffusers' DDIMScheduler steps through these timesteps: it goes from t to t − T // N, or to clean."""
    stride = num_train_timesteps // len(grid)
    return all(max(t - stride, CLEAN) == after for t, after in itertools.pairwise((*grid, CLEAN)))


def scheduler(interface: Interface, plans: tuple[Grid, ...], sampling: Sampling) -> dict[str, Any]:
    """The configuration of the scheduler of diffusers that draws our images: DDIM, or its equal for any timesteps.

    Args:
        plans: the timesteps that it has to visit, in any of these lists.

    Raises:
        UserError: no scheduler of diffusers visits them from zero SNR.
    """
    total = interface.schedule.num_train_timesteps
    config = interface.schedule.scheduler_config(clip_sample=sampling.clip_sample, prediction=interface.prediction)
    if not interface.grids:
        return {**config, "timestep_spacing": sampling.timestep_spacing}
    if all(lands(grid, total) for grid in plans):
        return config
    if interface.schedule.zero_terminal_snr:
        raise UserError(
            f"diffusers: no scheduler of diffusers makes {interface.step_counts} steps at the student's timesteps from "
            f"zero SNR. Train it for numbers of steps that divide {total}."
        )
    kept = {key: config[key] for key in ("num_train_timesteps", "trained_betas", "prediction_type")}
    # "Thresholding" with a largest value of 1 clips the predicted x_0 to [-1, 1], and nothing else.
    return {**FIRST_ORDER, **kept, "thresholding": sampling.clip_sample}


def set_timesteps(grid: Grid, config: dict[str, Any], num_train_timesteps: int) -> str:
    """The line of Python that gives a scheduler of this configuration these timesteps."""
    if config["_class_name"] != DDIM:
        return f"scheduler.set_timesteps(timesteps={list(grid)})"
    line = f"scheduler.set_timesteps({len(grid)})"
    if list(grid) == timesteps(len(grid), num_train_timesteps, config["timestep_spacing"]):
        return line
    return f"{line}; scheduler.timesteps = torch.tensor({list(grid)})"
