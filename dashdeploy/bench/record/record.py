"""The benchmark's record: the schema of bench.json, reading and writing it, and what is looked up in it."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, ValidationError, model_validator

from dashdeploy.bench.record import speed
from dashdeploy.bench.record.parts import RECIPE_PLAN as RECIPE_PLAN
from dashdeploy.bench.record.parts import (
    ArtifactChecks,
    Baselines,
    Fidelity,
    FidelityRow,
    Machine,
    ModelInfo,
    Part,
    PlanInfo,
    Quality,
    QualityRow,
    Settings,
    TrainingPoint,
)
from dashdeploy.bench.record.response import Response, ResponseRow
from dashdeploy.bench.record.times import RATIO_TOLERANCE, DecodingRow, GuidanceIntervalStudy, LatencyRow, Pair, Scope
from dashdeploy.errors import UserError, reading
from dashdeploy.figures import Number
from dashdeploy.recipe.schema import Solver

FORMAT = 4
FILE = "bench.json"
TEACHER, STUDENT = "teacher", "student"
SOLVER_LABELS: dict[Solver, str] = {"ddim": "DDIM", "dpmpp_2m": "DPM-Solver++(2M)", "consistency": "consistency"}
"""Solver -> its name in tables and on pages."""


class Record(Part):
    """All that a benchmark measured.

    Attributes:
        models: by key, in the order in which they are shown. Rows name a model by its key.
        plans: sampling plans by key. Rows name a plan by its key.
        checks: what the export measured of every artifact, also of one that does not run on this machine.
        compression: parameters of the teacher / parameters of the student.
        guidance_interval: None: it was not tried.
        response: None: no guidance scale but 1 was asked for, or the record was written before there were any.
    """

    format: Literal[4]
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
    checks: tuple[ArtifactChecks, ...]
    guidance_interval: GuidanceIntervalStudy | None
    training: tuple[TrainingPoint, ...]
    baselines: Baselines | None
    notes: tuple[str, ...]
    pairs: tuple[Pair, ...]
    response: Response | None = None
    decoding: tuple[DecodingRow, ...] = ()

    @model_validator(mode="after")
    def _refers_to_known_models(self) -> Record:
        used = {TEACHER, STUDENT, *(key for p in self.pairs for key in (p.slow, p.fast))}
        used |= {row.model for row in self.latency} | {row.model for row in self.decoding}
        used |= {row.model for row in self.quality.rows} | {row.model for row in self.fidelity.rows}
        used |= {row.model for row in self.response.rows} if self.response else set()
        if study := self.guidance_interval:
            used |= {study.model, *(row.model for row in study.latency), *(row.model for row in study.quality)}
        if missing := sorted(used - self.models.keys()):
            raise ValueError(f"models lacks {', '.join(map(repr, missing))}, which the rows refer to")
        return self

    @model_validator(mode="after")
    def _refers_to_known_plans(self) -> Record:
        study = self.guidance_interval
        rows = (*self.latency, *(study.latency if study else ()))
        used = {RECIPE_PLAN, *(row.plan for row in rows if row.plan is not None)}
        used |= {model.plan for model in self.models.values()}
        used |= {study.constant_plan, study.interval_plan} if study else set()
        if missing := sorted(used - self.plans.keys()):
            raise ValueError(f"plans lacks {', '.join(map(repr, missing))}, which the rows refer to")
        if study:
            if self.plans[study.constant_plan].timesteps != self.plans[study.interval_plan].timesteps:
                raise ValueError("guidance_interval: its two plans differ in more than guidance: timesteps")
            if others := {row.model for row in study.latency} - {study.model}:
                raise ValueError(f"guidance_interval: is about {study.model!r} and has times of {sorted(others)}")
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
        return SOLVER_LABELS[self.plans[RECIPE_PLAN].solver]

    def plan_of(self, model: str) -> PlanInfo:
        """What a model's images were drawn with, at the recipe's guidance."""
        return self.plans[self.models[model].plan]

    @property
    def has_own_steps(self) -> bool:
        """Whether the teacher's images were drawn in other steps than the students'."""
        return self.models[TEACHER].plan != RECIPE_PLAN

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
        """The student that the verdict is about: the first artifact, else the student in torch."""
        return next(iter(self.artifacts), STUDENT)

    @property
    def targeted(self) -> tuple[ResponseRow, ...]:
        """The responses, over all timesteps, of models that have a target: those of one branch, judged by them."""
        rows = self.response.rows if self.response else ()
        return tuple(row for row in rows if row.t is None and row.to_target)

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
        """At the model's own plan, the faster of its rows with batched and with two-pass branches."""
        wanted = (model, scope, batch_size, None if scope == "step" else self.models[model].plan)
        rows = [r for r in self.latency if (r.model, r.scope, r.batch_size, r.plan) == wanted]
        return min(rows, key=lambda row: row.p50_ms, default=None)

    def speedup(self, over: str, row: LatencyRow) -> speed.Ratio:
        """Least median of model `over` at the same work / median of `row`; refused where there is none."""
        return speed.against(self.plans, [r for r in self.latency if r.model == over], row)


@dataclass(frozen=True)
class Speedup:
    """A student's speed-up over another model at one batch, each with its faster branches, batched or two-pass.

    is_noise: the ratio's 95 % confidence interval holds 1.
    """

    model: str
    scope: Scope
    batch_size: int
    ratio: float
    is_noise: bool


def speedups(record: Record, scope: Scope, *, over: str = TEACHER) -> list[Speedup]:
    """Each student's speed-up over model `over` at each batch where the two can be compared."""
    results = []
    for model in record.students:
        for batch_size in sorted({row.batch_size for row in record.latency if row.scope == scope}):
            row = record.fastest(model, scope, batch_size)
            ratio = record.speedup(over, row) if row is not None else None
            if ratio is not None and not ratio.refused:
                results.append(Speedup(model, scope, batch_size, ratio.value, ratio.is_noise))
    return results


def parse(text: str, *, source: str = FILE) -> Record:
    """The record in a JSON text.

    Raises:
        UserError: not strict JSON, another format version, or a part that is missing, unknown or of a wrong type.
    """
    again = "Run `dashdeploy bench` again."
    try:
        content = json.loads(text, parse_constant=_reject)
    except ValueError as error:
        raise UserError(f"{source}: not a benchmark record: damaged JSON ({error}). {again}") from error
    version = content.get("format") if isinstance(content, dict) else None
    if type(version) is not int or version != FORMAT:
        raise UserError(f"{source}: not a benchmark record of format {FORMAT}: its format is {version!r}. {again}")
    try:
        return Record.model_validate(content)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, e['loc'])) or 'record'}: {e['msg']}" for e in error.errors()]
        more = f"; and {len(problems) - 6} more" if len(problems) > 6 else ""
        raise UserError(f"{source}: damaged benchmark record: {'; '.join(problems[:6])}{more}. {again}") from error


def load_record(path: Path) -> Record:
    """The record in a file, or in a folder's bench.json.

    Raises:
        UserError: it is not there or cannot be read, or `parse` refuses it.
    """
    path = path / FILE if path.is_dir() else path
    with reading(path, "benchmark record", again="Run `dashdeploy bench` again."):
        text = path.read_text(encoding="utf-8")
    return parse(text, source=str(path))


def dumps(record: Record) -> str:
    """Strict JSON: NaN and infinity become null."""
    return json.dumps(record.model_dump(mode="json"), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _reject(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON; a missing figure is null")
