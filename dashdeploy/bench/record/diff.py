"""Two benchmark records against each other: what changed, what the intervals tell apart, what is past a limit."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from dashdeploy.bench.record.comparable import model_notes, obstacles, other_gap, other_machine, version_notes
from dashdeploy.bench.record.parts import Interval, LatencyRow
from dashdeploy.bench.record.record import FILE, RECIPE_PLAN, Record, load_record
from dashdeploy.errors import UserError

Group = Literal["latency", "quality", "guidance gap", "size and memory"]
GROUPS: tuple[Group, ...] = ("latency", "quality", "guidance gap", "size and memory")
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
                    f"bench diff: --{name.replace('_', '-')} is {value:g}; expected a number of at least {least:g}"
                )


@dataclass(frozen=True)
class Change:
    """One figure in both records.

    Attributes:
        at: under which conditions, for people.
        ratio: whether `change` is b / a; otherwise it is b − a.
        low, high: 95 % interval of `change`; NaN where a record has none for the figure.
        beyond: whether that interval leaves out "no change"; None without an interval.
        better: which way is better; None: neither.
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
    better: Literal["low", "high"] | None
    limit: float | None
    regression: bool

    @property
    def worse(self) -> bool | None:
        """Whether B is worse; None: the same, or neither way is better."""
        moved = self.change - (1 if self.ratio else 0)
        if self.better is None or not abs(moved) > EXACT:
            return None
        return (moved > 0) == (self.better == "low")


@dataclass(frozen=True)
class Diff:
    """a, b: what the records are called. notes: what was left out, and why."""

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
    """The record at a file, in a bench folder, or in a run folder.

    Raises:
        UserError: there is none, or it is damaged.
    """
    inner = path / "bench" / FILE
    return load_record(inner if not (path / FILE).is_file() and inner.is_file() else path)


def compare(a: Record, b: Record, limits: Limits, *, names: tuple[str, str], only_beyond: bool = False) -> Diff:
    """B against A, figure by figure.

    Args:
        only_beyond: a figure past its limit is a regression only if its change is also beyond the intervals; one
            without intervals still is.

    Raises:
        UserError: the two cannot be compared; it names all in which they differ.
    """
    if differing := obstacles(a, b):
        raise UserError(
            f"bench diff: {names[0]} and {names[1]} cannot be compared: they differ in {'; '.join(differing)}"
        )
    notes = [*model_notes(a, b), *version_notes(a, b)]
    elsewhere = other_machine(a, b)
    if elsewhere:
        notes.append(f"Measured on another machine ({elsewhere}): latency, load time and memory are not compared.")
    make = _Maker(limits, only_beyond)
    shared = [key for key in a.models if key in b.models]
    changes = list(_quality(a, b, shared, make))
    if reason := other_gap(a, b):
        notes.append(f"Guidance fidelity is not compared: {reason}.")
    else:
        changes += _gap(a, b, make)
    if not elsewhere:
        changes += [*_latency(a, b, make, notes), *_load(a, b, shared, make)]
    changes += _size(a, b, shared, make, memory=not elsewhere)
    order = {group: i for i, group in enumerate(GROUPS)}
    return Diff(*names, sorted(changes, key=lambda c: order[c.group]), notes)


def ratio_interval(a: Interval, b: Interval) -> tuple[float, float]:
    """95 % interval of b / a from the intervals of both, by MOVER on logarithms (Zou and Donner 2008, Eq. 7).

    NaN where a record has no interval, or a figure is not positive.
    """
    values = (a.value, a.low, a.high, b.value, b.low, b.high)
    if not all(math.isfinite(v) and v > 0 for v in values):
        return math.nan, math.nan
    low, high = difference_interval(_logs(a), _logs(b))
    return math.exp(low), math.exp(high)


def difference_interval(a: Interval, b: Interval) -> tuple[float, float]:
    """95 % interval of b − a by MOVER (Zou and Donner 2008, Eq. 7); NaN where a record has no interval."""
    moved = b.value - a.value
    low = moved - math.hypot(b.value - b.low, a.high - a.value)
    return low, moved + math.hypot(b.high - b.value, a.value - a.low)


@dataclass(frozen=True)
class _Maker:
    limits: Limits
    only_beyond: bool

    def __call__(
        self,
        group: Group,
        figure: str,
        model: str,
        at: str,
        a: Interval,
        b: Interval,
        *,
        ratio: bool,
        better: Literal["low", "high"] | None,
        limit: float | None = None,
    ) -> Iterator[Change]:
        """Nothing where A lacks the figure."""
        if not math.isfinite(a.value):
            return
        none = 1.0 if ratio else 0.0
        change = _ratio(a.value, b.value) if ratio else b.value - a.value
        low, high = (ratio_interval if ratio else difference_interval)(a, b)
        known = math.isfinite(low + high)
        beyond = not low <= none <= high if known else None
        past = limit is not None and not change <= limit
        spared = self.only_beyond and beyond is False
        yield Change(
            group,
            figure,
            model,
            at,
            a.value,
            b.value,
            ratio,
            change,
            low,
            high,
            beyond,
            better,
            limit,
            past and not spared,
        )


def _ratio(a: float, b: float) -> float:
    if a == 0:
        return 1.0 if b == 0 else math.inf
    return b / a


def _latency(a: Record, b: Record, make: _Maker, notes: list[str]) -> Iterator[Change]:
    found = {_key(row): row for row in _timed(b)}
    for row in _timed(a):
        other = found.get(_key(row))
        plans = [r.plans[row.plan] for r in (a, b)] if other and row.plan is not None else []
        if other is None or (plans and plans[0].differences(plans[1])):
            if row.model in b.models:
                why = "another plan" if other else "missing in the second"
                notes.append(f"Latency of {row.model}, {_at(a, row)}, is not compared: {why}.")
            continue
        at = _at(a, row) if row.way == other.way else f"{_at(a, row)}, {row.way} → {other.way}"
        medians = [Interval(value=r.p50_ms, low=r.p50_low_ms, high=r.p50_high_ms) for r in (row, other)]
        limit = make.limits.max_slowdown
        yield from make("latency", "p50 (ms)", row.model, at, *medians, ratio=True, better="low", limit=limit)


def _timed(record: Record) -> list[LatencyRow]:
    """The latency rows, and those of the guidance interval: its constant plan is in the former."""
    study = record.interval
    return [*record.latency, *([row for row in study.latency if row.plan == study.interval] if study else ())]


def _key(row: LatencyRow) -> tuple[object, ...]:
    return row.model, row.branches, row.scope, row.batch_size, row.plan


def _at(record: Record, row: LatencyRow) -> str:
    where = f"batch {row.batch_size}, {row.branches}"
    if row.plan is None:
        return f"step, {where}"
    plan = record.plans[row.plan]
    guided = "" if row.plan == RECIPE_PLAN else f", {plan.guidance}"
    return f"{len(plan.timesteps)} steps{guided}, {where}"


def _load(a: Record, b: Record, shared: list[str], make: _Maker) -> Iterator[Change]:
    for key in shared:
        for figure, name in (("load (ms)", "load_ms"), ("first image (ms)", "first_call_ms")):
            values = [_alone(getattr(r.models[key], name)) for r in (a, b)]
            yield from make("latency", figure, key, "batch 1", *values, ratio=True, better="low")


def _quality(a: Record, b: Record, shared: list[str], make: _Maker) -> Iterator[Change]:
    for row in a.quality.rows:
        other = b.quality_at(row.model, row.guidance) if row.model in shared else None
        if other is None:
            continue
        at = row.guidance
        limit = 1 + make.limits.max_fid_increase
        yield from make("quality", "FID", row.model, at, row.fid, other.fid, ratio=True, better="low", limit=limit)
        yield from make("quality", "KID", row.model, at, row.kid, other.kid, ratio=False, better="low")
        accuracy = (_alone(row.accuracy), _alone(other.accuracy))
        yield from make("quality", "accuracy", row.model, at, *accuracy, ratio=False, better="high")


def _gap(a: Record, b: Record, make: _Maker) -> Iterator[Change]:
    limits = {"relative_error": make.limits.max_gap_error_increase}
    sides: dict[str, Literal["low", "high"] | None] = {"relative_error": "low", "energy_cosine": "high", "rho": None}
    for row in a.fidelity.rows:
        if (other := b.fidelity_of(row.model)) is None:
            continue
        for name, better in sides.items():
            values = [_alone(getattr(r.overall, name)) for r in (row, other)]
            figure = name.replace("_", " ")
            limit = limits.get(name)
            yield from make(
                "guidance gap", figure, row.model, a.guidance, *values, ratio=False, better=better, limit=limit
            )


def _size(a: Record, b: Record, shared: list[str], make: _Maker, *, memory: bool) -> Iterator[Change]:
    figures = [
        ("file (bytes)", "file_bytes", make.limits.max_size_increase),
        ("all graphs (bytes)", "artifact_bytes", make.limits.max_size_increase),
    ]
    figures += [("peak memory (MiB)", "peak_rss_mib", make.limits.max_memory_increase)] if memory else []
    for key in shared:
        for figure, name, most in figures:
            values = [getattr(r.models[key], name) for r in (a, b)]
            if values[1] is None and name == "artifact_bytes":
                continue  # a record of format 1 does not say
            one, two = (_alone(math.nan if v is None else v) for v in values)
            yield from make("size and memory", figure, key, "", one, two, ratio=True, better="low", limit=1 + most)


def _alone(value: float) -> Interval:
    return Interval(value=value, low=math.nan, high=math.nan)


def _logs(found: Interval) -> Interval:
    return Interval(value=math.log(found.value), low=math.log(found.low), high=math.log(found.high))


def _strict(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
