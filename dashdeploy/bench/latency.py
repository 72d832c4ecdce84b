"""Latency of guided steps and of the whole DDIM sampler: models interleaved in one run, percentiles and ratios."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
import torch

from dashdeploy import seeds
from dashdeploy.bench.record import SCOPES, LatencyRow, Scope
from dashdeploy.diffusion import guidance
from dashdeploy.diffusion.denoiser import Denoiser
from dashdeploy.diffusion.sampling import Plan, ddim
from dashdeploy.recipe.schema import Latency
from dashdeploy.runtime.model import Model

K = TypeVar("K")
SETTLE_S = 0.05
Branches = Literal["batched", "two-pass"]


class TwoPass:
    """A torch model whose branches run one after the other: guidance without batching, the naive reference."""

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


@dataclass
class _Row:
    name: str
    branches: Branches
    denoiser: Denoiser
    device: str


def measure(
    models: dict[str, Model],
    config: Latency,
    run: Plan,
    *,
    seed: int,
    on_row: Callable[[str], None] | None = None,
) -> list[LatencyRow]:
    """Time every model at every batch size; torch models also with two passes.

    At each batch size the models take turns, one timed call each, so that a change of the machine's
    speed meets all of them alike.
    """
    rows = [_Row(name, "batched", m.denoiser, m.device) for name, m in models.items()]
    rows += [_Row(n, "two-pass", TwoPass(m.denoiser), m.device) for n, m in models.items() if m.runtime == "torch"]
    found: list[LatencyRow] = []
    for batch_size in config.batch_sizes:
        calls: dict[tuple[str, Branches], Any] = {
            (r.name, r.branches): _calls(r, batch_size, run, seed=seed) for r in rows
        }
        for call, _ in calls.values():
            for _ in range(config.warmup):
                call()
        for scope in SCOPES:
            timed = {k: pair[SCOPES.index(scope)] for k, pair in calls.items()}
            repeats = config.repeats if scope == "step" else config.sampler_repeats
            budget = config.sampler_budget_s if scope == "sampler" else None
            for key, times in interleave(timed, repeats=repeats, warm=scope == "step", budget_s=budget).items():
                found.append(_row(*key, scope, batch_size, times))
            if on_row is not None:
                on_row(f"{scope}, batch {batch_size}")
    return found


def interleave(
    calls: dict[K, Callable[[], object]], *, repeats: int, warm: bool = True, budget_s: float | None = None
) -> dict[K, list[float]]:
    """Seconds of each call, taken in turns; a call that has used up budget_s is left out of further turns.

    The thread pools of torch and ONNX Runtime go on spinning for some milliseconds after a call and would
    take the cores from the next model's. So each turn waits for them to come to rest, and with `warm` makes
    one untimed call first.
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


def _calls(row: _Row, batch_size: int, run: Plan, *, seed: int) -> tuple[Callable[[], object], Callable[[], object]]:
    interface = row.denoiser.interface
    generator = torch.Generator().manual_seed(seeds.derive(seed, "latency", batch_size))
    noise = torch.randn((batch_size, *interface.image_shape), generator=generator).to(row.device)
    y = (torch.arange(batch_size) % interface.num_classes).to(row.device)
    t = torch.full_like(y, run.timesteps[len(run.timesteps) // 2])
    w = torch.full(y.shape, 2.0, device=row.device)

    @torch.inference_mode()
    def step() -> None:
        row.denoiser.guided(noise, t, y, w)
        _wait(row.device)

    @torch.inference_mode()
    def sampler() -> None:
        ddim(row.denoiser, noise, y, run)
        _wait(row.device)

    return step, sampler


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize(device)


def _row(name: str, branches: Branches, scope: Scope, batch_size: int, times: list[float]) -> LatencyRow:
    ms = np.array(times) * 1e3
    p50, p90, p99 = (float(v) for v in np.percentile(ms, [50, 90, 99]))
    return LatencyRow(
        model=name,
        branches=branches,
        scope=scope,
        batch_size=batch_size,
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=p99,
        mean_ms=float(ms.mean()),
        repeats=len(ms),
        images_per_s=batch_size / p50 * 1e3,
    )


def speedups(rows: list[LatencyRow], *, slow: str, fast: str) -> list[dict[str, Any]]:
    """slow's median over fast's, batched, for every scope and batch size that both have."""
    medians = {(r.model, r.scope, r.batch_size): r.p50_ms for r in rows if r.branches == "batched"}
    return [
        {"slow": slow, "fast": fast, "scope": scope, "batch_size": size, "ratio": ms / medians[fast, scope, size]}
        for (model, scope, size), ms in medians.items()
        if model == slow and (fast, scope, size) in medians
    ]
