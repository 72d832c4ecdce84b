"""The benchmark's record: the schema of bench.json, reading and writing it, and what is looked up in it.

A figure that could not be computed is NaN in Python and null in the file, which is strict JSON.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    PlainSerializer,
    ValidationError,
    model_validator,
)

from dashdeploy.errors import UserError

FORMAT = 1
FILE = "bench.json"
TEACHER, STUDENT = "teacher", "student"

Scope = Literal["step", "sampler"]
SCOPES: tuple[Scope, ...] = ("step", "sampler")
Number = Annotated[
    float,
    BeforeValidator(lambda value: math.nan if value is None else value),
    PlainSerializer(lambda value: value if math.isfinite(value) else None, when_used="json"),
]


class Part(BaseModel):
    """Base of every part: frozen, and no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Machine(Part):
    """Where it was measured; gpu None: there was none."""

    cpu: str
    cores: int
    memory_gib: Number
    platform: str
    gpu: str | None = None


class Settings(Part):
    """The recipe's sections as they were resolved, and the sampler's timesteps, largest first."""

    sampling: dict[str, Any]
    latency: dict[str, Any]
    quality: dict[str, Any]
    fidelity: dict[str, Any]
    timesteps: tuple[int, ...]


class ModelInfo(Part):
    """One measured model in one runtime. None: does not apply there."""

    label: str
    runtime: str
    parameters: int | None
    file_bytes: int | None
    sha256: str | None
    peak_rss_mib: Number


class LatencyRow(Part):
    """Wall time of one guided step, or of the whole sampler; images_per_s counts what that scope finishes."""

    model: str
    branches: Literal["batched", "two-pass"]
    scope: Scope
    batch_size: int
    p50_ms: Number
    p90_ms: Number
    p99_ms: Number
    mean_ms: Number
    repeats: int
    images_per_s: Number


class Interval(Part):
    """A figure and its 95 % interval; low and high are NaN where none was computed."""

    value: Number
    low: Number
    high: Number


class QualityRow(Part):
    """Distances of one model's samples at one guidance; w None: guidance that changes over time."""

    model: str
    guidance: str
    w: float | None
    fid: Interval
    kid: Interval
    fid_to_teacher: Interval | None
    accuracy: Number


class Features(Part):
    """The network whose features the distances are taken in."""

    name: str
    sha256: str


class Quality(Part):
    features: Features
    num_images: int
    num_reference: int
    rows: tuple[QualityRow, ...]


class Gap(Part):
    """Guidance fidelity over t_low ≤ t < t_high: the fields of `metrics.gap.GapRow`."""

    t_low: int
    t_high: int
    num: int
    rho: Number
    relative_error: Number
    energy_cosine: Number
    mean_cosine: Number
    slope: Number
    mse: Number
    guided_error: Number
    uncond_error: Number
    cond_error: Number


class FidelityRow(Part):
    model: str
    overall: Gap
    bins: tuple[Gap, ...]


class Fidelity(Part):
    guidance: str
    num_pairs: int
    rows: tuple[FidelityRow, ...]


class TrainingPoint(Part):
    """One line of metrics.jsonl. Each name in `terms` is a further key; so may be other figures (grad_norm)."""

    model_config = ConfigDict(extra="allow", frozen=True)
    __pydantic_extra__: dict[str, Number]

    step: int
    loss: Number
    terms: tuple[str, ...]
    learning_rate: Number
    images_per_s: Number

    def value(self, term: str) -> float:
        """A further figure by its name; NaN where the line has none."""
        return self.__pydantic_extra__.get(term, math.nan)


class BaselineRow(Part):
    """A control: FID by guidance label."""

    name: str
    label: str
    fid: dict[str, Number]
    energy_cosine: Number
    rho: Number


class Baselines(Part):
    """Controls measured elsewhere in the same way.

    recovery, by guidance label: (FID of the one from scratch − FID of the student) / (FID of the one from
    scratch − FID of the teacher).
    """

    source: str
    rows: tuple[BaselineRow, ...]
    recovery: dict[str, Number]


class Pair(Part):
    """ratio: median time of `slow` / median time of `fast`, branches stacked, from runs that took turns."""

    batch_size: int
    scope: Scope
    slow: str
    fast: str
    ratio: Number


class Record(Part):
    """All that a benchmark measured. Keys of `models` are what the rows refer to, in the order to show them."""

    format: Literal[1]
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
    latency: tuple[LatencyRow, ...]
    quality: Quality
    fidelity: Fidelity
    training: tuple[TrainingPoint, ...] = ()
    baselines: Baselines | None = None
    notes: tuple[str, ...] = ()
    pairs: tuple[Pair, ...] = ()

    @model_validator(mode="after")
    def _refers_to_known_models(self) -> Record:
        used = {TEACHER, STUDENT, *(key for p in self.pairs for key in (p.slow, p.fast))}
        used |= {row.model for row in self.latency}
        used |= {row.model for row in self.quality.rows} | {row.model for row in self.fidelity.rows}
        if missing := sorted(used - self.models.keys()):
            raise ValueError(f"models lacks {', '.join(map(repr, missing))}, which the rows refer to")
        return self

    @property
    def guidance(self) -> str:
        """The recipe's guidance, by its label: where the verdict is given."""
        return self.fidelity.guidance

    @property
    def num_inference_steps(self) -> int:
        return len(self.settings.timesteps)

    @property
    def students(self) -> list[str]:
        """Every model but the teacher."""
        return [key for key in self.models if key != TEACHER]

    @property
    def deployed(self) -> str:
        """The student that the verdict is about: the first exported one, else the one in torch."""
        return next((key for key in self.students if key != STUDENT), STUDENT)

    def label(self, model: str) -> str:
        """A model's label, with the rest of its key where another one has the same label."""
        label = self.models[model].label
        shared = sum(other.label == label for other in self.models.values()) > 1
        return f"{label}, {model.removeprefix('student-')}" if shared else label

    def quality_at(self, model: str, guidance: str) -> QualityRow | None:
        return next((row for row in self.quality.rows if (row.model, row.guidance) == (model, guidance)), None)

    def fidelity_of(self, model: str) -> FidelityRow | None:
        return next((row for row in self.fidelity.rows if row.model == model), None)

    def fastest(self, model: str, scope: Scope, batch_size: int) -> LatencyRow | None:
        """Of a model's ways to run both branches the one with the least median."""
        found = [r for r in self.latency if (r.model, r.scope, r.batch_size) == (model, scope, batch_size)]
        return min(found, key=lambda row: row.p50_ms, default=None)

    def ratio_to_teacher(self, row: LatencyRow) -> float:
        """Median of the teacher's fastest way at this scope and batch / median of `row`; NaN without one."""
        teacher = self.fastest(TEACHER, row.scope, row.batch_size)
        return teacher.p50_ms / row.p50_ms if teacher else math.nan


@dataclass(frozen=True)
class Speedup:
    """Of a student over the teacher at one batch, each in the faster of its ways to run both branches."""

    model: str
    scope: Scope
    batch_size: int
    ratio: float


def speedups(record: Record, scope: Scope) -> list[Speedup]:
    """Of each student at each batch that it and the teacher were timed at."""
    found = []
    for model in record.students:
        for batch_size in sorted({row.batch_size for row in record.latency if row.scope == scope}):
            row = record.fastest(model, scope, batch_size)
            if row is not None and math.isfinite(ratio := record.ratio_to_teacher(row)):
                found.append(Speedup(model, scope, batch_size, ratio))
    return found


def parse(text: str, *, source: str = FILE) -> Record:
    """The record in a JSON text.

    Raises:
        UserError: not strict JSON, another format version, or a part that is missing, unknown or of a wrong type.
    """
    again = "Run `dashdeploy bench` again."
    try:
        found = json.loads(text, parse_constant=_reject)
    except ValueError as error:
        raise UserError(f"{source}: not a benchmark record: damaged JSON ({error}). {again}") from error
    version = found.get("format") if isinstance(found, dict) else None
    if version != FORMAT:
        raise UserError(f"{source}: not a benchmark record of format {FORMAT}: its format is {version!r}. {again}")
    try:
        return Record.model_validate(found)
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
