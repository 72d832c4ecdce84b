"""The benchmark's record: the schema of bench.json, reading and writing it, and what is looked up in it."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, ValidationError, model_validator

from dashdeploy.bench.record import speed
from dashdeploy.bench.record.parts import (
    RATIO_TOLERANCE,
    ArtifactChecks,
    Baselines,
    Fidelity,
    FidelityRow,
    IntervalStudy,
    LatencyRow,
    Machine,
    ModelInfo,
    Number,
    Pair,
    Part,
    PlanInfo,
    Quality,
    QualityRow,
    Scope,
    Settings,
    TrainingPoint,
)
from dashdeploy.bench.record.upgrade import OLDER, upgraded
from dashdeploy.errors import UserError
from dashdeploy.recipe.schema import Solver

FORMAT = 2
FILE = "bench.json"
TEACHER, STUDENT = "teacher", "student"
RECIPE_PLAN = "recipe"
"""Key of the plan that the recipe's sampling section says."""
SOLVERS: dict[Solver, str] = {"ddim": "DDIM", "dpmpp_2m": "DPM-Solver++(2M)"}
"""As tables and pages name them."""


class Record(Part):
    """All that a benchmark measured. Keys of `models` are what the rows refer to, in the order to show them.

    `checks` are of every artifact, those that could not be run on this machine too.
    """

    format: Literal[2]
    recipe: str
    created: AwareDatetime
    seed: int
    threads: int
    machine: Machine
    versions: dict[str, str]
    settings: Settings
    classes: tuple[str, ...]
    models: dict[str, ModelInfo]
    compression: Number
    images_seen: int
    plans: dict[str, PlanInfo]
    latency: tuple[LatencyRow, ...]
    quality: Quality
    fidelity: Fidelity
    checks: tuple[ArtifactChecks, ...] = ()
    interval: IntervalStudy | None = None
    training: tuple[TrainingPoint, ...] = ()
    baselines: Baselines | None = None
    notes: tuple[str, ...] = ()
    pairs: tuple[Pair, ...] = ()

    @model_validator(mode="after")
    def _refers_to_known_models(self) -> Record:
        used = {TEACHER, STUDENT, *(key for p in self.pairs for key in (p.slow, p.fast))}
        used |= {row.model for row in self.latency}
        used |= {row.model for row in self.quality.rows} | {row.model for row in self.fidelity.rows}
        if study := self.interval:
            used |= {study.model, *(row.model for row in study.latency), *(row.model for row in study.quality)}
        if missing := sorted(used - self.models.keys()):
            raise ValueError(f"models lacks {', '.join(map(repr, missing))}, which the rows refer to")
        return self

    @model_validator(mode="after")
    def _refers_to_known_plans(self) -> Record:
        rows = (*self.latency, *(self.interval.latency if self.interval else ()))
        used = {RECIPE_PLAN, *(row.plan for row in rows if row.plan is not None)}
        used |= {self.interval.constant, self.interval.interval} if self.interval else set()
        if missing := sorted(used - self.plans.keys()):
            raise ValueError(f"plans lacks {', '.join(map(repr, missing))}, which the rows refer to")
        if self.interval:
            constant, changing = self.plans[self.interval.constant], self.plans[self.interval.interval]
            if constant.timesteps != changing.timesteps:
                raise ValueError("interval: its two plans differ in more than guidance: timesteps")
            if other := {row.model for row in self.interval.latency} - {self.interval.model}:
                raise ValueError(f"interval: is about {self.interval.model!r} and has times of {sorted(other)}")
        return self

    @model_validator(mode="after")
    def _ratios_are_of_one_plan(self) -> Record:
        for pair in self.pairs:
            if pair.refused:
                continue
            slow = self._rows(pair.slow, pair.slow_branches, pair.scope, pair.batch_size)
            fast = self._rows(pair.fast, pair.fast_branches, pair.scope, pair.batch_size)
            ratios = [speed.ratio(self.plans, a, b).value for a in slow for b in fast]
            if not any(math.isclose(pair.ratio, r, rel_tol=RATIO_TOLERANCE) for r in ratios):
                raise ValueError(
                    f"pairs: {pair.slow} over {pair.fast} ({pair.scope}, batch {pair.batch_size}) is "
                    f"{pair.ratio:.4g}, and there are no medians of one plan with that ratio"
                )
        return self

    def _rows(self, model: str, branches: str, scope: Scope, batch_size: int) -> list[LatencyRow]:
        wanted = (model, branches, scope, batch_size)
        return [r for r in self.latency if (r.model, r.branches, r.scope, r.batch_size) == wanted]

    @property
    def guidance(self) -> str:
        """The recipe's guidance, by its label: where the verdict is given."""
        return self.fidelity.guidance

    @property
    def num_inference_steps(self) -> int:
        return len(self.settings.timesteps)

    @property
    def solver(self) -> str:
        """The recipe's solver, by its label."""
        return SOLVERS[self.plans[RECIPE_PLAN].solver]

    @property
    def students(self) -> list[str]:
        """Every model but the teacher."""
        return [key for key in self.models if key != TEACHER]

    @property
    def artifacts(self) -> list[str]:
        """The exported students."""
        return [key for key in self.students if key != STUDENT]

    @property
    def deployed(self) -> str:
        """The student that the verdict is about: the first exported one, else the one in torch."""
        return next(iter(self.artifacts), STUDENT)

    def label(self, model: str) -> str:
        """A model's label, with the rest of its key where another one has the same label."""
        if model not in self.models:
            return model.removeprefix("student-")
        label = self.models[model].label
        shared = sum(other.label == label for other in self.models.values()) > 1
        return f"{label}, {model.removeprefix('student-')}" if shared else label

    def quality_at(self, model: str, guidance: str) -> QualityRow | None:
        return next((row for row in self.quality.rows if (row.model, row.guidance) == (model, guidance)), None)

    def fidelity_of(self, model: str) -> FidelityRow | None:
        return next((row for row in self.fidelity.rows if row.model == model), None)

    def fastest(self, model: str, scope: Scope, batch_size: int) -> LatencyRow | None:
        """Of a model's ways to run both branches at the recipe's plan the one with the least median."""
        plan = None if scope == "step" else RECIPE_PLAN
        found = [
            r for r in self.latency if (r.model, r.scope, r.batch_size, r.plan) == (model, scope, batch_size, plan)
        ]
        return min(found, key=lambda row: row.p50_ms, default=None)

    def speedup(self, over: str, row: LatencyRow) -> speed.Ratio:
        """Median of the fastest comparable way of model `over` / median of `row`; refused without one."""
        return speed.against(self.plans, [r for r in self.latency if r.model == over], row)


@dataclass(frozen=True)
class Speedup:
    """Of a student over another model at one batch, each in the faster of its ways to run both branches."""

    model: str
    scope: Scope
    batch_size: int
    ratio: float


def speedups(record: Record, scope: Scope, *, over: str = TEACHER) -> list[Speedup]:
    """Of each student at each batch at which it can be compared with `over`."""
    found = []
    for model in record.students:
        for batch_size in sorted({row.batch_size for row in record.latency if row.scope == scope}):
            row = record.fastest(model, scope, batch_size)
            got = record.speedup(over, row) if row is not None else None
            if got is not None and not got.refused:
                found.append(Speedup(model, scope, batch_size, got.value))
    return found


def parse(text: str, *, source: str = FILE) -> Record:
    """The record in a JSON text; an older format is upgraded, with NaN and None for what it did not measure.

    Raises:
        UserError: not strict JSON, an unknown format version, or a part that is missing, unknown or of a wrong type.
    """
    again = "Run `dashdeploy bench` again."
    try:
        found = json.loads(text, parse_constant=_reject)
    except ValueError as error:
        raise UserError(f"{source}: not a benchmark record: damaged JSON ({error}). {again}") from error
    version = found.get("format") if isinstance(found, dict) else None
    if type(version) is not int or version not in (*OLDER, FORMAT):
        raise UserError(
            f"{source}: not a benchmark record of format {FORMAT} or {', '.join(map(str, OLDER))}: its format is "
            f"{version!r}. {again}"
        )
    try:
        return Record.model_validate(upgraded(found) if version in OLDER else found)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, e['loc'])) or 'record'}: {e['msg']}" for e in error.errors()]
        more = f"; and {len(problems) - 6} more" if len(problems) > 6 else ""
        raise UserError(f"{source}: damaged benchmark record: {'; '.join(problems[:6])}{more}. {again}") from error


def load_record(path: Path) -> Record:
    """The record in a file, or in a folder's bench.json.

    Raises:
        UserError: it is not there or cannot be read, and what `parse` raises.
    """
    path = path / FILE if path.is_dir() else path
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot read the benchmark record ({error}). Run `dashdeploy bench` first.") from error
    return parse(text, source=str(path))


def dumps(record: Record) -> str:
    """Strict JSON: NaN and infinity become null."""
    return json.dumps(record.model_dump(mode="json"), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _reject(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON; a missing figure is null")
