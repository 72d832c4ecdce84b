"""Responses to guidance: what w changes in each student's prediction, beside the teacher's, at the steps it takes."""

from __future__ import annotations

import torch

from dashdeploy.bench.measure.quality import plan_of
from dashdeploy.bench.record.record import STUDENT, TEACHER
from dashdeploy.bench.record.response import Likeness, Response, ResponseRow
from dashdeploy.data.images import LabelledImages
from dashdeploy.diffusion.denoiser import Interface
from dashdeploy.metrics import gap, response
from dashdeploy.progress import progress
from dashdeploy.recipe.schema import Recipe
from dashdeploy.runtime.model import Model

DRAWS, TIMESTEPS = 64, 10
"""Held-out noisy images at each timestep, and the most timesteps."""


def measure(models: dict[str, Model], recipe: Recipe, data: LabelledImages) -> Response | None:
    """Rows of every model but the teacher, at each w over all timesteps and at each; None: no w but 1 is asked for.

    A few-step student's target is the end of the teacher's path, in as many steps of DPM-Solver++(2M) as its share of
    `bench.teacher_steps` (of a consistency student, all), and at least 2: the number of its training may be less, and
    is not what it is judged by.
    """
    teacher, student = models[TEACHER], models[STUDENT].denoiser.interface
    scales = scales_of(recipe, student)
    if not scales:
        return None
    _, held_out = data.split(recipe.data.holdout)
    plan = plan_of(recipe, models[STUDENT])
    ends = {t: end for t, end, _ in plan.steps()}
    timesteps = thinned(plan.timesteps)
    num = min(DRAWS, recipe.bench.fidelity.num_pairs)
    seed = recipe.bench.seed
    probes = gap.draw_probes(held_out, student.schedule, num=num * len(timesteps), seed=seed, timesteps=timesteps)
    base, own = student.base_scale, student.prediction
    share = 1 if student.consistency else len(plan.timesteps)
    path_steps = max(2, -(-recipe.bench.teacher_steps // share)) if student.grids else 0
    rows = []
    with progress("response to guidance", total=len(models)) as advance:
        of_gap = response.of_model(teacher.denoiser, probes, scales, base=base, prediction=own, device=teacher.device)
        of_target = None
        if student.branches == 1:
            of_target = response.of_target(
                teacher.denoiser,
                probes,
                scales,
                base=base,
                prediction=own,
                clip=not recipe.data.gives_latents,
                ends=ends,
                steps=path_steps,
                device=teacher.device,
            )
        advance(1)
        for name, model in models.items():
            if name == TEACHER:
                continue
            found = response.of_model(model.denoiser, probes, scales, base=base, prediction=own, device=model.device)
            for i, w in enumerate(scales):
                for t in (None, *timesteps):
                    at = slice(None) if t is None else probes.t == t
                    rows.append(
                        ResponseRow(
                            model=name,
                            w=w,
                            t=t,
                            to_gap=_likeness(found[i][at], of_gap[i][at]),
                            to_target=None if of_target is None else _likeness(found[i][at], of_target[i][at]),
                        )
                    )
            advance(1)
    return Response(base=base, prediction=own, num_draws=num, path_steps=path_steps, rows=tuple(rows))


def scales_of(recipe: Recipe, student: Interface) -> list[float]:
    """The constant scales of the benchmark and of the recipe's sampling, ascending: those with a response, in range."""
    low, high = student.guidance_range or (-torch.inf, torch.inf)
    given = (*recipe.bench.quality.guidance, recipe.sampling.guidance)
    constant = {float(scale) for scale in given if isinstance(scale, int | float)}
    return sorted(w for w in constant if low <= w <= high and abs(w - student.base_scale) > gap.NEAR)


def thinned(timesteps: tuple[int, ...]) -> tuple[int, ...]:
    """At most TIMESTEPS of them, evenly spread, with the first and the last."""
    most = min(TIMESTEPS, len(timesteps))
    return tuple(timesteps[round(i * (len(timesteps) - 1) / max(1, most - 1))] for i in range(most))


def _likeness(given: torch.Tensor, expected: torch.Tensor) -> Likeness:
    found = gap.likeness(given.double(), expected.double())
    return Likeness(**{name: found[name] for name in Likeness.model_fields})
