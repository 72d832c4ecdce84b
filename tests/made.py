"""Teachers for tests: small networks that nobody trained, saved as what they are said to predict."""

from __future__ import annotations

from pathlib import Path

from dashdeploy.diffusion.schedule import NoiseSchedule, from_recipe, zero_terminal_snr
from dashdeploy.recipe.schema import Architecture, Prediction
from dashdeploy.recipe.schema import NoiseSchedule as Section
from dashdeploy.teachers import networks, unet2d

SMALL = Architecture(block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, attention_levels=(1,))


def schedule(*, zero_snr: bool = False) -> NoiseSchedule:
    """The linear one of 1000 timesteps, as it is or rescaled to end at ᾱ = 0."""
    plain = from_recipe(Section())
    return NoiseSchedule(zero_terminal_snr(plain.betas)) if zero_snr else plain


def save_teacher(folder: Path, prediction: Prediction, *, zero_snr: bool = False) -> Path:
    """A teacher of the digits in `folder`, which is returned."""
    unet = unet2d.build(SMALL, image_shape=(1, 8, 8), num_classes=10, seed=0)
    networks.save(unet, schedule(zero_snr=zero_snr), folder, prediction=prediction)
    return folder


def taught_by(folder: Path) -> list[str]:
    """Overrides of the tiny recipe: this ready teacher, which knows nothing, and a student of two steps."""
    return [
        *(f"teacher={{path: {folder}, check: false}}", "teach=null", "distill.timestep_weights.kind=uniform"),
        *("distill.steps=2", "distill.warmup_steps=1"),
    ]


GUIDED = ("student.branches=1", "distill.objective={kind: guided}")
SEGMENTS = (
    *("student.branches=1", "student.prediction_type=v_prediction"),
    "distill.objective={kind: segments, steps: [4, 2], teacher_steps: 2}",
)
PROGRESSIVE = (
    *("student.branches=1", "student.prediction_type=v_prediction"),
    "distill.objective={kind: progressive, steps: 4, halvings: 2}",
)
"""Overrides for students of one branch, at any timestep and in few steps."""
CONSISTENCY = (
    *("student.branches=1", "student.prediction_type=sample", "sampling.solver=consistency"),
    "distill.objective={kind: consistency, steps: [4, 2], skip: 30}",
)
MATCHING = (
    *("student.branches=1", "student.prediction_type=v_prediction"),
    "distill.objective={kind: distribution_matching, steps: [4, 2], fake_updates: 3}",
    "distill.steps=3",
)
"""Overrides for students of one branch: of the solver consistency, and fine-tuned from few steps."""
