"""What an export says of its student, as the samplers of this project know it."""

from __future__ import annotations

import numpy as np

from dashdeploy.artifact import SamplingPlan, Student
from dashdeploy.diffusion.denoiser import Interface
from dashdeploy.diffusion.schedule import NoiseSchedule
from dashdeploy.recipe.schema import Sampling


def interface(student: Student, plan: SamplingPlan) -> Interface:
    """The Interface that an export describes; the solver consistency is of students that were trained for it alone."""
    schedule = NoiseSchedule(np.asarray(student.betas, np.float64), source="the artifact's noise schedule")
    return Interface(
        num_classes=student.num_classes,
        image_shape=student.image_shape,
        latents=student.latents,
        decoded=None if student.decoder is None else student.decoder.image_shape,
        schedule=schedule,
        prediction=student.prediction_type,
        branches=student.branches,
        guidance_range=student.guidance_range,
        grids=student.grids,
        consistency=plan.solver == "consistency",
    )


def sampling(plan: SamplingPlan) -> Sampling:
    """The recipe's section that an artifact's plan was worked out from."""
    return Sampling(
        num_inference_steps=len(plan.timesteps),
        solver=plan.solver,
        timestep_spacing=plan.timestep_spacing,
        clip_sample=plan.clip_sample,
        guidance=plan.guidance,
    )
