"""The models of a benchmark: opening all that run on this machine, and what each of them costs to hold."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from dashdeploy.artifact import GraphName
from dashdeploy.bench.measure import artifact_checks, loading, memory, quality
from dashdeploy.bench.measure.latency import evaluations
from dashdeploy.bench.record.parts import RECIPE_PLAN, ModelInfo
from dashdeploy.bench.record.record import STUDENT
from dashdeploy.diffusion.sampling import Plan
from dashdeploy.errors import UserError
from dashdeploy.manifest import Manifest
from dashdeploy.progress import progress
from dashdeploy.recipe.schema import Recipe
from dashdeploy.runtime.model import Model
from dashdeploy.runtime.opening import open_path
from dashdeploy.terminal import warn


def open_all(folders: dict[str, Path], threads: int, stack: ExitStack) -> tuple[dict[str, Model], list[str]]:
    """The models, and a note, also on stderr, on every artifact that does not run on this machine.

    Args:
        folders: by model, artifacts with keys that begin with ``student-``.
        stack: closes the models.

    Raises:
        UserError: the teacher, the student or every artifact cannot be opened.
    """
    models: dict[str, Model] = {}
    notes: list[str] = []
    artifacts = [name for name in folders if name.startswith("student-")]
    for name, folder in folders.items():
        try:
            models[name] = stack.enter_context(open_path(folder, threads=threads))
        except UserError as error:
            if name not in artifacts or len(notes) + 1 == len(artifacts):
                raise
            notes.append(f"{folder.name} does not run here and is left out: {error}")
            warn(notes[-1])
    return models, notes


def describe(
    models: dict[str, Model],
    folders: dict[str, Path],
    manifests: dict[str, Manifest],
    recipe: Recipe,
    plans: Mapping[str, Plan],
    threads: int,
) -> dict[str, ModelInfo]:
    """Sizes by model; and if the recipe measures times, memory and load times, each in separate processes.

    Args:
        manifests: of the artifacts, by model.
        plans: by model; the key of one that is not the student's is the model's.
    """
    sizes = recipe.bench.latency.batch_sizes
    opened = {name: folders[name] for name in models}
    graphs = {name: model.graph_for(plans[name]) for name, model in models.items()}
    cost = _cost_to_hold(opened, models, manifests, graphs, recipe, threads=threads) if sizes else {}
    described = {}
    for name, model in models.items():
        manifest = manifests.get(name)
        build_s, build_peak_mib = artifact_checks.build_cost(manifest.artifact if manifest else None)
        load_ms, first_call_ms, peak_rss_mib = cost.get(name, (math.nan, math.nan, math.nan))
        described[name] = ModelInfo(
            label=model.label,
            runtime=model.runtime,
            parameters=model.parameters,
            file_bytes=model.file_bytes,
            artifact_bytes=manifest.figures.file_bytes if manifest else None,
            sha256=model.sha256,
            peak_rss_mib=peak_rss_mib,
            precision=model.precision,
            graph=graphs[name],
            plan=RECIPE_PLAN if plans[name] == plans[STUDENT] else name,
            evaluations=evaluations(model, plans[name]),
            load_ms=load_ms,
            first_call_ms=first_call_ms,
            build_s=build_s,
            build_peak_mib=build_peak_mib,
        )
    return described


def _cost_to_hold(
    folders: dict[str, Path],
    models: dict[str, Model],
    manifests: dict[str, Manifest],
    graphs: Mapping[str, GraphName],
    recipe: Recipe,
    *,
    threads: int,
) -> dict[str, tuple[float, float, float]]:
    """(ms to load, ms of the first call, peak memory in MiB) by model."""
    largest = max(recipe.bench.latency.batch_sizes)
    with progress("loading and memory", total=1 + len(models)) as advance:
        runtimes = {model.runtime for model in models.values()}
        samplings = {name: quality.sampling_of(recipe, model) for name, model in models.items()}
        load_times = loading.load_times(folders, runtimes, samplings, threads=threads)
        advance(1)
        cost = {}
        for name, folder in folders.items():
            artifact = manifests[name].artifact if name in manifests else None
            peak_rss_mib = memory.peak_rss_mib(folder, artifact, graphs[name], batch_size=largest, threads=threads)
            cost[name] = (*load_times[name], peak_rss_mib)
            advance(1)
    return cost
