"""Two benchmark records compared: what changed, whether by more than chance, and what is past a limit."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from dashdeploy import stages
from dashdeploy.bench.record.comparable import (
    model_notes,
    obstacles,
    other_gap,
    other_machine,
    other_response,
    version_notes,
)
from dashdeploy.bench.record.intervals import difference_interval, ratio_interval
from dashdeploy.bench.record.parts import Estimate
from dashdeploy.bench.record.record import FILE, RECIPE_PLAN, Record, load_record
from dashdeploy.bench.record.times import LatencyRow
from dashdeploy.errors import UserError, shown

Group = Literal["latency", "quality", "guidance gap", "size and memory"]
GROUPS: tuple[Group, ...] = ("latency", "quality", "guidance gap", "size and memory")
Better = Literal["low", "high"]
EXACT = 1e-9
"""Relative; figures that differ by less are the same."""


@dataclass(frozen=True)
class Limits:
    """How much worse B may be. Slowdown is a ratio of medians, gap error a difference, the others shares of A's."""

    max_slowdown: float = 1.10
    max_fid_increase: float = 0.05
    max_gap_error_increase: float = 0.02
    max_memory_increase: float = 0.10
    max_size_increase: float = 0.05

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            least = 1.0 if name == "max_slowdown" else 0.0
            if not (math.isfinite(value) and value >= least):
                raise UserError(
                    f"diff: --{name.replace('_', '-')} is {value:g}; expected a number of at least {least:g}"
                )


@dataclass(frozen=True)
class Change:
    """One figure in both records.

    Attributes:
        at: the conditions, as a reader reads them.
        ratio: whether `change` is b / a; otherwise it is b − a.
        low, high: 95 % confidence interval of `change`; NaN where a record has none for the figure.
        beyond: whether that interval leaves out "no change"; None without an interval.
        better: which direction is better; None: neither.
        limit: of `change`; None: this figure has no limit.
        regression: past its limit, or missing in B.
    """

    group: Group
    figure: str
    model: str
    at: str
    a: float
    b: float
    ratio: bool
    change: float
    low: float
    high: float
    beyond: bool | None
    better: Better | None
    limit: float | None
    regression: bool

    @property
    def worse(self) -> bool | None:
        """Whether B is worse; None: the same, or neither direction is better."""
        moved = self.change - (1 if self.ratio else 0)
        if self.better is None or not abs(moved) > EXACT:
            return None
        return (moved > 0) == (self.better == "low")


@dataclass(frozen=True)
class Diff:
    """a, b: the names of the records. notes: what was not compared, and why."""

    a: str
    b: str
    changes: list[Change]
    notes: list[str] = field(default_factory=list)

    @property
    def regressions(self) -> list[Change]:
        return [change for change in self.changes if change.regression]

    def as_dict(self) -> dict[str, Any]:
        """For JSON: figures that are missing are None."""
        changes = [{k: _strict(v) for k, v in asdict(change).items()} for change in self.changes]
        return {"a": self.a, "b": self.b, "notes": self.notes, "regressions": len(self.regressions), "changes": changes}


def find(path: Path) -> Record:
    """The record at a file, in a bench folder, or in a run folder; checked by its stage's manifest where one is there.

    Raises:
        UserError: there is none, or it is damaged or changed.
    """
    if not path.exists():
        raise UserError(f"{shown(path)}: no such file or folder. Give a bench.json, a bench folder or a run folder.")
    if (path / "student").is_dir() and not (path / "bench" / FILE).is_file():
        raise UserError(f"{shown(path)}: a run without a benchmark. Run `dashdeploy bench {shown(path)}` first.")
    if folder := stage_of(path):
        stages.read_stage(folder)
    return load_record(_place(path))


def stage_of(path: Path) -> Path | None:
    """The folder whose manifest vouches for the record that `find` opens; None: there is no manifest."""
    place = _place(path)
    folder = place if place.is_dir() else place.parent if place.name == FILE else None
    return folder if folder is not None and (folder / stages.MANIFEST).is_file() else None


def _place(path: Path) -> Path:
    inner = path / "bench" / FILE
    return inner if not (path / FILE).is_file() and inner.is_file() else path


def compare(a: Record, b: Record, limits: Limits, *, names: tuple[str, str], only_beyond: bool = False) -> Diff:
    """B against A, figure by figure; figures that A lacks are left out.

    Args:
        only_beyond: a figure past its limit is no regression if the confidence interval of its change holds "no
            change"; a figure without a confidence interval still is one.

    Raises:
        UserError: the two cannot be compared; the message names everything in which they differ.
    """
    if differing := obstacles(a, b):
        raise UserError(f"diff: {names[0]} and {names[1]} cannot be compared: they differ in {'; '.join(differing)}")
    notes = [*model_notes(a, b), *version_notes(a, b)]
    elsewhere = other_machine(a, b)
    if elsewhere:
        notes.append(f"Measured on another machine ({elsewhere}): latency, load time and memory are not compared.")
    shared = [key for key in a.models if key in b.models]
    changes = [] if elsewhere else [*_latency(a, b, limits, notes), *_load(a, b, shared)]
    changes += _quality(a, b, shared, limits)
    if reason := other_gap(a, b):
        notes.append(f"Guidance fidelity is not compared: {reason}.")
    else:
        changes += [*_gap(a, b, limits), *_response(a, b, limits, notes)]
    changes += _size(a, b, shared, limits)
    changes += [] if elsewhere else _memory(a, b, shared, limits)
    known = [change for change in changes if math.isfinite(change.a)]
    if only_beyond:
        known = [replace(change, regression=False) if change.beyond is False else change for change in known]
    return Diff(*names, known, notes)


def _change(
    group: Group,
    figure: str,
    model: str,
    at: str,
    a: Estimate,
    b: Estimate,
    *,
    ratio: bool,
    better: Better | None,
    limit: float | None = None,
) -> Change:
    """One figure: b / a if `ratio`, else b − a."""
    same = 1.0 if ratio else 0.0
    change = _divided(a.value, b.value) if ratio else b.value - a.value
    low, high = (ratio_interval if ratio else difference_interval)(a, b)
    beyond = not low <= same <= high if math.isfinite(low + high) else None
    regression = limit is not None and not change <= limit
    return Change(
        group, figure, model, at, a.value, b.value, ratio, change, low, high, beyond, better, limit, regression
    )


def _divided(a: float, b: float) -> float:
    if a == 0:
        return 1.0 if b == 0 else math.inf
    return b / a


def _latency(a: Record, b: Record, limits: Limits, notes: list[str]) -> Iterator[Change]:
    """The medians; rows that have no partner go into the notes."""
    others = {_key(row): row for row in _timed(b)}
    for row in _timed(a):
        other = others.get(_key(row))
        plans = [r.plans[row.plan] for r in (a, b)] if other and row.plan is not None else []
        if other is None or (plans and plans[0].differences(plans[1])):
            if row.model in b.models:
                why = "another plan" if other else "missing in the second"
                notes.append(f"Latency of {row.model}, {_at(a, row)}, is not compared: {why}.")
            continue
        at = _at(a, row) if row.graph == other.graph else f"{_at(a, row)}, {row.graph} → {other.graph}"
        limit = limits.max_slowdown
        yield _change("latency", "p50 (ms)", row.model, at, row.p50, other.p50, ratio=True, better="low", limit=limit)


def _timed(record: Record) -> list[LatencyRow]:
    """The latency rows, and those of the guidance interval; its constant plan is among the former."""
    study = record.guidance_interval
    return [*record.latency, *([row for row in study.latency if row.plan == study.interval_plan] if study else ())]


def _key(row: LatencyRow) -> tuple[object, ...]:
    return row.model, row.branches, row.scope, row.batch_size, row.plan


def _at(record: Record, row: LatencyRow) -> str:
    where = f"batch {row.batch_size}, {row.branches}"
    if row.plan is None:
        return f"step, {where}"
    plan = record.plans[row.plan]
    guided = "" if row.plan == RECIPE_PLAN else f", {plan.guidance}"
    return f"{len(plan.timesteps)} steps{guided}, {where}"


def _load(a: Record, b: Record, shared: list[str]) -> Iterator[Change]:
    for key in shared:
        for figure, name in (("load (ms)", "load_ms"), ("first image (ms)", "first_call_ms")):
            yield _change("latency", figure, key, "batch 1", *_of_models(a, b, key, name), ratio=True, better="low")


def _quality(a: Record, b: Record, shared: list[str], limits: Limits) -> Iterator[Change]:
    for row in a.quality.rows:
        other = b.quality_at(row.model, row.guidance) if row.model in shared else None
        if other is None:
            continue
        model, at, limit = row.model, row.guidance, 1 + limits.max_fid_increase
        yield _change("quality", "FID", model, at, row.fid, other.fid, ratio=True, better="low", limit=limit)
        yield _change("quality", "KID", model, at, row.kid, other.kid, ratio=False, better="low")
        accuracies = (_exact(row.accuracy), _exact(other.accuracy))
        yield _change("quality", "accuracy", model, at, *accuracies, ratio=False, better="high")
        distances = (_known(row.pixel_distance), _known(other.pixel_distance))
        yield _change("quality", "pixels to teacher", model, at, *distances, ratio=False, better="low")
        confidences = (_exact(row.confidence), _exact(other.confidence))
        yield _change("quality", "confidence", model, at, *confidences, ratio=False, better="high")


_GAP: tuple[tuple[str, Better | None, Callable[[Limits], float | None]], ...] = (
    ("relative_error", "low", lambda limits: limits.max_gap_error_increase),
    ("energy_cosine", "high", lambda _: None),
    ("rho", None, lambda _: None),
)


def _gap(a: Record, b: Record, limits: Limits) -> Iterator[Change]:
    """Without a limit of a model that is judged by its response."""
    judged_by_response = {row.model for row in a.targeted} & {row.model for row in b.targeted}
    for row in a.fidelity.rows:
        if (other := b.fidelity_of(row.model)) is None:
            continue
        for name, better, limit in _GAP:
            values = [_exact(getattr(r.overall, name)) for r in (row, other)]
            figure, at = name.replace("_", " "), a.guidance
            most = None if row.model in judged_by_response else limit(limits)
            yield _change("guidance gap", figure, row.model, at, *values, ratio=False, better=better, limit=most)


def _response(a: Record, b: Record, limits: Limits, notes: list[str]) -> Iterator[Change]:
    """Of one branch, at each w over all timesteps: its response takes the place of the gap, and has the gap's limit."""
    if reason := other_response(a, b):
        notes.append(f"The response to guidance is not compared: {reason}.")
    elif a.response and b.response:
        for row in a.targeted:
            other = b.response.overall(row.model, row.w)
            if other is None or other.to_target is None:
                continue
            for name, better, limit in _GAP:
                values = [_exact(getattr(r.decides, name)) for r in (row, other)]
                figure, at = f"response: {name.replace('_', ' ')}", f"w={row.w:g}"
                yield _change(
                    "guidance gap", figure, row.model, at, *values, ratio=False, better=better, limit=limit(limits)
                )


def _size(a: Record, b: Record, shared: list[str], limits: Limits) -> Iterator[Change]:
    limit = 1 + limits.max_size_increase
    for key in shared:
        for figure, name in (("file (bytes)", "file_bytes"), ("all graphs (bytes)", "artifact_bytes")):
            values = _of_models(a, b, key, name)
            yield _change("size and memory", figure, key, "", *values, ratio=True, better="low", limit=limit)


def _memory(a: Record, b: Record, shared: list[str], limits: Limits) -> Iterator[Change]:
    limit = 1 + limits.max_memory_increase
    for key in shared:
        values = _of_models(a, b, key, "peak_rss_mib")
        yield _change("size and memory", "peak memory (MiB)", key, "", *values, ratio=True, better="low", limit=limit)


def _of_models(a: Record, b: Record, key: str, name: str) -> tuple[Estimate, Estimate]:
    """One figure of one model in both records."""
    first, second = (getattr(record.models[key], name) for record in (a, b))
    return _known(first), _known(second)


def _known(value: float | None) -> Estimate:
    return _exact(math.nan if value is None else value)


def _exact(value: float) -> Estimate:
    """A figure without a confidence interval."""
    return Estimate(value=value, low=math.nan, high=math.nan)


def _strict(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
