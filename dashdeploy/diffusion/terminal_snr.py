"""A warning where samplers begin so near to zero SNR that a prediction of eps spoils the images."""

from __future__ import annotations

from dashdeploy.diffusion.grids import CLEAN
from dashdeploy.diffusion.prediction import Prediction
from dashdeploy.diffusion.sampling import Plan
from dashdeploy.diffusion.schedule import NoiseSchedule

MOST = 10.0


def amplified(plan: Plan, schedule: NoiseSchedule, prediction: Prediction) -> str | None:
    """A line where a step magnifies the error of a prediction of eps more than MOST times; None: none does.

    x_0 = (x − σ·eps)/√ᾱ, so what eps is off by comes out √ᾱ_next/√ᾱ times as large (Lin et al. 2024,
    arXiv:2305.08891, Section 3.2). Clipping x_0 bounds it.
    """
    if plan.clip_sample or prediction != "epsilon" or plan.solver == "consistency":
        return None
    root = schedule.alphas_cumprod_from_clean.sqrt()
    factors = {t: float(root[after + 1] / root[t + 1]) for t, after, _ in plan.steps() if after != CLEAN}
    worst = max(factors, key=lambda t: factors[t], default=None)
    if worst is None or factors[worst] <= MOST:
        return None
    return (
        f"the step from t = {worst} magnifies an error of eps {factors[worst]:,.0f} times, and clip_sample is false: "
        "it will spoil the images. Set sampling.timestep_spacing to leading, or take a model that predicts v, or a "
        "noise schedule that keeps more signal, such as linear"
    )
