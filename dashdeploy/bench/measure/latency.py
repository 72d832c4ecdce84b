"""Latency of guided steps and of the whole sampler: models take turns in one process; rows hold percentiles."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from dashdeploy import seeds
from dashdeploy.artifact import GraphName
from dashdeploy.bench.record.record import RECIPE_PLAN
from dashdeploy.bench.record.times import SCOPES, Branches, LatencyRow, Scope
from dashdeploy.diffusion import guidance
from dashdeploy.diffusion.denoiser import Denoiser, Interface
from dashdeploy.diffusion.sampling import SOLVERS, Plan, Sample
from dashdeploy.progress import progress
from dashdeploy.recipe.schema import Latency
from dashdeploy.runtime.graphs_model import GraphDenoiser
from dashdeploy.runtime.model import Model

K = TypeVar("K")
SETTLE_S = 0.05
MIN_RUNS = 6
"""Fewest runs for a confidence interval of the median: 1 − 2·0.5⁶ = 0.97."""
MIN_RUNS_OF = {90: 10, 99: 100}
"""Percentile -> the fewest runs for it: of fewer, none is expected to take longer."""
RESAMPLES = 2000


class TwoPass:
    """A torch model whose branches run one after the other: guidance without batching, the plain reference."""

    def __init__(self, denoiser: Denoiser) -> None:
        self.inner, self.interface = denoiser, denoiser.interface

    def __call__(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.inner(x, t, y)

    def branches(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(eps_uncond, eps_cond), each from a forward over B."""
        return self.inner(x, t, torch.full_like(y, self.interface.null_class)), self.inner(x, t, y)

    def guided(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        """Guided eps from two forwards."""
        return guidance.combine(*self.branches(x, t, y), w)


@dataclass(frozen=True)
class _Timed:
    """One model, and how a guided step and the whole sampler are called."""

    model: str
    branches: Branches
    denoiser: Denoiser
    sample: Sample
    device: str


def measure(
    models: dict[str, Model], config: Latency, plan: Plan, *, own: Mapping[str, Plan] | None = None, seed: int
) -> list[LatencyRow]:
    """Time every model's guided step and sampler at every batch size.

    Torch models of two branches are timed with two passes too. The sampler is `Model.sample`, which takes the
    artifact's fastest graph; rows say which. At each batch size the models take turns, one timed call each, so that a
    change of the machine's speed meets all of them alike.

    Args:
        plan: the recipe's.
        own: by model, a further plan to time its sampler with, whose key in the record's plans is the model's.
    """
    timed = [_batched(model, opened) for model, opened in models.items()]
    for model, opened in models.items():
        if opened.runtime == "torch" and opened.denoiser.interface.branches == 2:
            twice = TwoPass(opened.denoiser)
            timed.append(_Timed(model, "two-pass", twice, partial(SOLVERS[plan.solver], twice), opened.device))
    rows: list[LatencyRow] = []
    with progress("latency", total=len(SCOPES) * len(config.batch_sizes)) as advance:
        for batch_size in config.batch_sizes:
            calls = {(one.model, one.branches): _calls(one, batch_size, plan, seed=seed) for one in timed}
            for step, _ in calls.values():
                for _ in range(config.warmup):
                    step()
            steps = {key: step for key, (step, _) in calls.items()}
            for (model, branches), times in interleave(steps, repeats=config.repeats).items():
                once = models[model].denoiser.interface.branches
                rows.append(
                    row(times, model, branches, "step", batch_size, plan=None, graph=None, evaluations=once, seed=seed)
                )
            advance(1)
            # (model, branches, key of the plan) -> the sampler; its turns come after those of the step.
            samplers = {(*key, RECIPE_PLAN): sampler for key, (_, sampler) in calls.items()}
            used = dict.fromkeys(samplers, plan)
            for one in timed:
                if one.model in (own or {}):
                    key = (one.model, one.branches, one.model)
                    used[key] = (own or {})[one.model]
                    samplers[key] = _calls(one, batch_size, used[key], seed=seed)[1]
            graphs = {key: models[key[0]].graph_for(run, batch_size) for key, run in used.items()}
            for key, times in _sampler_times(samplers, graphs, config).items():
                model, branches, name = key
                count = evaluations(models[model], used[key], batch_size)
                rows.append(
                    row(
                        times,
                        model,
                        branches,
                        "sampler",
                        batch_size,
                        plan=name,
                        graph=graphs[key],
                        evaluations=count,
                        seed=seed,
                    )
                )
            advance(1)
    return rows


def evaluations(model: Model, plan: Plan, batch_size: int | None = None) -> int:
    """How often a model's network runs for an image: once a step with one branch, twice with two.

    A step whose guidance scale is 1 runs the conditional branch alone, but in a sampler graph and without a cond graph.
    batch_size None: a large one.
    """
    steps = len(plan.timesteps)
    if model.denoiser.interface.branches == 1:
        return steps
    can_run_one = not isinstance(model.denoiser, GraphDenoiser) or "cond" in model.denoiser.graphs
    alone = can_run_one and model.graph_for(plan, batch_size) != "sampler"
    return 2 * steps - (plan.weights.count(1.0) if alone else 0)


def measure_plans(name: str, model: Model, config: Latency, plans: dict[str, Plan], *, seed: int) -> list[LatencyRow]:
    """Time one model's sampler at several plans, which take turns, at every batch size.

    Args:
        name: the model's key. plans: by their keys in the record's plans.
    """
    timed = _batched(name, model)
    rows = []
    for batch_size in config.batch_sizes:
        graphs = {key: model.graph_for(plan, batch_size) for key, plan in plans.items()}
        calls = {key: _calls(timed, batch_size, plan, seed=seed)[1] for key, plan in plans.items()}
        for key, times in _sampler_times(calls, graphs, config).items():
            count = evaluations(model, plans[key], batch_size)
            rows.append(
                row(
                    times,
                    name,
                    "batched",
                    "sampler",
                    batch_size,
                    plan=key,
                    graph=graphs[key],
                    evaluations=count,
                    seed=seed,
                )
            )
    return rows


def _batched(name: str, model: Model) -> _Timed:
    return _Timed(name, "batched", model.denoiser, model.sample, model.device)


def _sampler_times(
    calls: Mapping[K, Callable[[], None]], graphs: Mapping[K, GraphName], config: Latency
) -> dict[K, list[float]]:
    """Seconds of each call; a sampler or step graph, which may not have been opened yet, is called once untimed."""
    for key, call in calls.items():
        if graphs[key] != "guided":
            call()
    return interleave(calls, repeats=config.sampler_repeats, warm=False, budget_s=config.sampler_budget_s)


def interleave(
    calls: Mapping[K, Callable[[], object]], *, repeats: int, warm: bool = True, budget_s: float | None = None
) -> dict[K, list[float]]:
    """Seconds of each call, taken in turns; a call that has used up budget_s is left out of further turns.

    The thread pools of torch and ONNX Runtime spin on for some milliseconds after a call and would take the cores
    from the next model. So each turn waits until they rest, and with `warm` makes one untimed call first.
    """
    times: dict[K, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            if budget_s is not None and sum(times[name]) >= budget_s:
                continue
            time.sleep(SETTLE_S)
            if warm:
                call()
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    return times


def fitting(plan: Plan, interface: Interface) -> Plan:
    """The plan; for the teacher beside a consistency student as many steps of DDIM, which take as long."""
    return plan if plan.solver in interface.solvers else replace(plan, solver="ddim")


def _calls(timed: _Timed, batch_size: int, plan: Plan, *, seed: int) -> tuple[Callable[[], None], Callable[[], None]]:
    """(a guided step, the whole sampler), each of which returns when the device has finished."""
    interface = timed.denoiser.interface
    plan = fitting(plan, interface)
    generator = torch.Generator().manual_seed(seeds.derive(seed, "latency", batch_size))
    noise = torch.randn((batch_size, *interface.noise_shape(plan)), generator=generator).to(timed.device)
    y = (torch.arange(batch_size) % interface.num_classes).to(timed.device)
    t = torch.full_like(y, plan.timesteps[len(plan.timesteps) // 2])
    w = torch.full(y.shape, 2.0, device=timed.device)

    @torch.inference_mode()
    def step() -> None:
        timed.denoiser.guided(plan.start(noise), t, y, w)
        wait(timed.device)

    @torch.inference_mode()
    def sampler() -> None:
        timed.sample(noise, y, plan)
        wait(timed.device)

    return step, sampler


def wait(device: str) -> None:
    """Until the device has finished."""
    if device != "cpu":
        torch.cuda.synchronize(device)


def row(
    times: list[float],
    model: str,
    branches: Branches,
    scope: Scope,
    batch_size: int,
    *,
    plan: str | None,
    graph: GraphName | None,
    evaluations: int,
    seed: int,
) -> LatencyRow:
    """The figures of raw times in seconds."""
    ms = np.array(times) * 1e3
    p50 = float(np.median(ms))
    p90, p99 = (float(np.percentile(ms, q)) if len(ms) >= least else math.nan for q, least in MIN_RUNS_OF.items())
    low, high = median_interval(ms, seed=seed)
    return LatencyRow(
        model=model,
        branches=branches,
        scope=scope,
        batch_size=batch_size,
        plan=plan,
        graph=graph,
        evaluations=evaluations,
        p50_ms=p50,
        p50_low_ms=low,
        p50_high_ms=high,
        p90_ms=p90,
        p99_ms=p99,
        mean_ms=float(ms.mean()),
        repeats=len(ms),
        images_per_s=batch_size / p50 * 1e3,
    )


def median_interval(values: NDArray[np.float64], *, seed: int) -> tuple[float, float]:
    """95 % confidence interval of the median of (n,) values: the 2.5th and 97.5th percentile of its bootstrap.

    NaN below MIN_RUNS values: even the whole range of n runs holds the true median with probability 1 − 2·0.5ⁿ only.
    """
    if len(values) < MIN_RUNS:
        return math.nan, math.nan
    generator = np.random.default_rng(seeds.derive(seed, "median-interval"))
    drawn = generator.choice(values, (RESAMPLES, len(values)))
    low, high = np.percentile(np.median(drawn, axis=1), [2.5, 97.5])
    return float(low), float(high)
