"""Guidance fidelity: each student's guidance gap compared with the teacher's on held-out noisy images."""

from __future__ import annotations

from dashdeploy.bench.record.parts import Fidelity, FidelityRow
from dashdeploy.bench.record.record import TEACHER
from dashdeploy.data.images import LabelledImages
from dashdeploy.diffusion import guidance
from dashdeploy.metrics import gap
from dashdeploy.progress import progress
from dashdeploy.recipe.schema import Recipe
from dashdeploy.runtime.model import Model

BATCH_SIZE = 128


def measure(models: dict[str, Model], recipe: Recipe, data: LabelledImages) -> Fidelity:
    """A row for every model but the teacher, at the recipe's guidance, over all t and in ranges of t."""
    config, scale = recipe.bench.fidelity, recipe.sampling.guidance
    _, held_out = data.split(recipe.data.holdout)
    schedule = models[TEACHER].denoiser.interface.schedule
    probes = gap.draw_probes(held_out, schedule, num=config.num_pairs, seed=recipe.bench.seed)
    w = gap.scales(scale, probes, schedule.num_train_timesteps)
    with progress("guidance fidelity", total=len(models) * config.num_pairs) as advance:
        outputs = {
            name: gap.predict(m.denoiser, probes, batch_size=BATCH_SIZE, w=w, device=m.device, on_draws=advance)
            for name, m in models.items()
        }
    teacher = outputs.pop(TEACHER)
    rows = []
    for name, student in outputs.items():
        overall, bins = gap.fidelity(
            student, teacher, probes, scale=scale, num_train_timesteps=schedule.num_train_timesteps, bins=config.bins
        )
        rows.append(FidelityRow(model=name, overall=overall, bins=tuple(bins)))
    return Fidelity(guidance=guidance.label(scale), num_pairs=config.num_pairs, rows=tuple(rows))
