"""The models of a benchmark: opening all that run on this machine, and what each of them costs to hold."""

from __future__ import annotations

import math
import sys
from contextlib import ExitStack
from pathlib import Path

from dashdeploy import stages
from dashdeploy.bench.measure import checks, loading, memory
from dashdeploy.bench.measure.progress import progress
from dashdeploy.bench.record.parts import ModelInfo
from dashdeploy.diffusion.sampling import Plan
from dashdeploy.errors import UserError
from dashdeploy.recipe.schema import Recipe
from dashdeploy.runtime.model import Model
from dashdeploy.runtime.opening import open_path


def opened(folders: dict[str, Path], threads: int, stack: ExitStack) -> tuple[dict[str, Model], list[str]]:
    """The models, and a note on every artifact that does not run on this machine, also on stderr.

    Raises:
        UserError: the teacher, the student or every artifact cannot be opened.
    """
    models: dict[str, Model] = {}
    refused: list[str] = []
    for name, folder in folders.items():
        try:
            models[name] = stack.enter_context(open_path(folder, threads=threads))
        except UserError as error:
            others = [key for key in folders if key.startswith("student-")]
            if name not in others or len(refused) + 1 == len(others):
                raise
            refused.append(f"{folder.name} does not run here and is left out: {error}")
            print(f"warning: {refused[-1]}", file=sys.stderr)
    return models, refused


def describe(
    models: dict[str, Model],
    folders: dict[str, Path],
    artifacts: dict[str, stages.Stage],
    recipe: Recipe,
    plan: Plan,
    threads: int,
) -> dict[str, ModelInfo]:
    """Sizes by model; memory and load times too, each in processes of its own, if the recipe has times taken."""
    own = {name: folders[name] for name in models}
    sizes = recipe.bench.latency.batch_sizes
    cost = _cost_to_hold(own, models, recipe, batch_size=max(sizes), threads=threads) if sizes else {}
    found = {}
    for name, model in models.items():
        stage = artifacts.get(name)
        build_s, build_peak_mib = checks.build_figures(stage.manifest["artifact"] if stage else {})
        load_ms, first_call_ms, peak_rss_mib = cost.get(name, (math.nan, math.nan, math.nan))
        found[name] = ModelInfo(
            label=model.label,
            runtime=model.runtime,
            parameters=model.parameters,
            file_bytes=model.file_bytes,
            artifact_bytes=stage.figures["file_bytes"] if stage else None,
            sha256=model.sha256,
            peak_rss_mib=peak_rss_mib,
            precision=model.precision,
            way=model.graph_for(plan),
            load_ms=load_ms,
            first_call_ms=first_call_ms,
            build_s=build_s,
            build_peak_mib=build_peak_mib,
        )
    return found


def _cost_to_hold(
    folders: dict[str, Path], models: dict[str, Model], recipe: Recipe, *, batch_size: int, threads: int
) -> dict[str, tuple[float, float, float]]:
    """(time of loading, of the first call, both ms, peak memory in MiB) by model."""
    with progress("loading and memory", total=1 + len(models)) as advance:
        runtimes = {model.runtime for model in models.values()}
        loaded = loading.load_times(folders, runtimes, recipe.sampling, threads=threads)
        advance(1)
        found = {}
        for name, folder in folders.items():
            peak_rss_mib = memory.peak_rss_mib(folder, batch_size=batch_size, threads=threads)
            found[name] = (*loaded[name], peak_rss_mib)
            advance(1)
    return found
