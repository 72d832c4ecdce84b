"""Quality against latency over the models of one or several records, and which of them no other beats at both."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from dashdeploy import stages
from dashdeploy.bench.record.comparable import other_machine
from dashdeploy.bench.record.diff import find, stage_of
from dashdeploy.bench.record.parts import Estimate
from dashdeploy.bench.record.record import TEACHER, Record
from dashdeploy.diffusion.guidance import label
from dashdeploy.errors import UserError


@dataclass(frozen=True)
class Point:
    """One model: what an image takes with its own steps, and its FID.

    Attributes:
        run: the name of its record.
        ms: median wall time of its whole sampler / batch size, with its 95 % confidence interval.
        evaluations: of its network for an image; None: the record does not say.
        best: no other model is as fast and as good, and better at one of both.
    """

    run: str
    model: str
    label: str
    parameters: int | None
    steps: int
    evaluations: int | None
    ms: Estimate
    fid: Estimate
    best: bool = False

    @property
    def is_teacher(self) -> bool:
        return self.model == TEACHER


@dataclass(frozen=True)
class Front:
    """Models from the fastest to the slowest.

    Attributes:
        guidance: the label of the scale of the FID.
        timed_at: the labels of the scales of the times.
        num_images: of each FID.
    """

    guidance: str
    timed_at: tuple[str, ...]
    batch_size: int
    threads: int
    num_images: int
    features: str
    points: tuple[Point, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON: ends of intervals that are missing are None."""
        points = [
            asdict(point) | {"ms": point.ms.model_dump(mode="json"), "fid": point.fid.model_dump(mode="json")}
            for point in self.points
        ]
        return asdict(replace(self, points=())) | {"points": points}


def read(folders: Sequence[Path]) -> dict[str, Record]:
    """The finished records of some runs, by the names of their folders, or by their paths where two have one name.

    Raises:
        UserError: a run is given twice, has no record or a damaged one, or was measured on other data than the first.
    """
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise UserError("bench: a run is given twice, and a front shows each once: leave it out")
    names = [folder.resolve().name for folder in folders]
    names = [str(folder) if names.count(name) > 1 else name for folder, name in zip(folders, names, strict=True)]
    records = {name: find(folder) for folder, name in zip(folders, names, strict=True)}
    stages_of = [stage_of(folder) for folder in folders]
    data = [stages.read_manifest(stage)["inputs"]["data"] if stage else None for stage in stages_of]
    for name, one in zip(names, data, strict=True):
        if data[0] and one and one != data[0]:
            raise UserError(
                f"bench: {names[0]} and {name} make no front: they differ in data ({data[0][:12]} and {one[:12]})"
            )
    return records


def front(records: Mapping[str, Record], *, batch_size: int, guidance: str | None = None) -> Front:
    """The front of all models of some records, which are shown once where it is the same teacher with the same steps.

    Args:
        records: by the name of the run.
        guidance: the w at which FID is read, as 2 or w=2, or a label of tables; None: the recipe's.

    Raises:
        UserError: the records cannot be compared, lack that batch or guidance, or were timed with other evaluations
            than that guidance takes; it names the first reason.
    """
    first_name, first = next(iter(records.items()))
    for name, record in records.items():
        if different := _obstacle(first, record):
            raise UserError(f"bench: {first_name} and {name} make no front: they differ in {different}")
        if guidance is None and record.guidance != first.guidance:
            raise UserError(
                f"bench: {first_name} is sampled at {first.guidance} and {name} at {record.guidance}: say at which "
                "guidance FID is read, as in --guidance 2"
            )
    at = _label(guidance) if guidance else first.guidance
    found: dict[tuple[Any, ...], Point] = {}
    for name, record in records.items():
        _check(name, record, batch_size, at)
        _check_evaluations(name, record, batch_size, at)
        for point in _points(name, record, batch_size, at):
            same = (TEACHER, record.plan_of(TEACHER)) if point.is_teacher else (name, point.model)
            found.setdefault(tuple(map(str, same)), point)
    features = first.quality.features
    assert features is not None
    points = sorted(found.values(), key=lambda point: point.ms.value)
    return Front(
        guidance=at,
        timed_at=tuple(dict.fromkeys(record.guidance for record in records.values())),
        batch_size=batch_size,
        threads=first.threads,
        num_images=first.quality.num_images,
        features=features.title,
        points=tuple(replace(point, best=not any(_beats(o, point) for o in points)) for point in points),
    )


def _label(guidance: str) -> str:
    """The label in tables: "2" is w=2."""
    try:
        return label(float(guidance))
    except ValueError:
        return guidance


def front_of(record: Record) -> Front | None:
    """The front of one record's models at its largest batch and the recipe's guidance; None: it has no two models."""
    sizes = [row.batch_size for row in record.latency if row.scope == "sampler"]
    if not sizes or record.quality.features is None:
        return None
    if len(list(_points(record.recipe, record, max(sizes), record.guidance))) < 2:
        return None
    return front({record.recipe: record}, batch_size=max(sizes))


def _points(name: str, record: Record, batch_size: int, guidance: str) -> list[Point]:
    """The models that have both figures."""
    points = []
    for key, model in record.models.items():
        row, quality = record.fastest(key, "sampler", batch_size), record.quality_at(key, guidance)
        if row is None or quality is None or not math.isfinite(row.p50_ms + quality.fid.value):
            continue
        ends = (row.p50_ms, row.p50_low_ms, row.p50_high_ms)
        ms, low, high = (end / batch_size for end in ends)
        points.append(
            Point(
                run=name,
                model=key,
                label=record.label(key),
                parameters=model.parameters,
                steps=len(record.plan_of(key).timesteps),
                evaluations=row.evaluations,
                ms=Estimate(value=ms, low=low, high=high),
                fid=quality.fid,
            )
        )
    return points


def _beats(a: Point, b: Point) -> bool:
    one, two = (a.ms.value, a.fid.value), (b.ms.value, b.fid.value)
    return one != two and one[0] <= two[0] and one[1] <= two[1]


def _check(name: str, record: Record, batch_size: int, guidance: str) -> None:
    """Refuse a batch or guidance that a record lacks."""
    if record.quality.features is None:
        raise UserError(f"bench: {name} has no FID: it was measured with --features none. Measure it with another.")
    sizes = sorted({row.batch_size for row in record.latency if row.scope == "sampler"})
    if batch_size not in sizes:
        has = f"it has {', '.join(map(str, sizes))}: give --batch-size" if sizes else "it has no latency"
        raise UserError(f"bench: {name} was not timed at batch {batch_size}; {has}")
    known = dict.fromkeys(row.guidance for row in record.quality.rows)
    if guidance not in known:
        raise UserError(f"bench: {name} has no FID at {guidance}; it has {', '.join(known)}: give --guidance")


def _check_evaluations(name: str, record: Record, batch_size: int, guidance: str) -> None:
    """Refuse a guidance at which a model of two branches runs its network another number of times than when timed."""
    if guidance == record.guidance:
        return
    asked = _off(record, guidance)
    for point in _points(name, record, batch_size, guidance):
        timed = {w == 1 for w in record.plan_of(point.model).weights}
        if _has_two_branches(record, point) and (timed != asked or len(asked) > 1):
            raise UserError(
                f"bench: {name} was timed at {record.guidance}, and FID is asked for at {guidance}: a step at w=1 runs "
                f"one branch of {point.label} and others run two, so its time at {guidance} is not known. Give "
                "another --guidance, or measure the run with that sampling.guidance"
            )


def _off(record: Record, guidance: str) -> set[bool]:
    """Whether w is 1 at the steps of a guidance that FID was measured at: always, never, or of an interval both."""
    w = next(row.w for row in record.quality.rows if row.guidance == guidance)
    if w is None:
        return {False} if guidance.startswith("TAG") else {True, False}
    return {w == 1}


def _has_two_branches(record: Record, point: Point) -> bool:
    """Of a model that was timed at w = 1 its evaluations do not say it; one of one branch has a target."""
    if point.is_teacher or point.evaluations is None or point.evaluations > point.steps:
        return True
    targeted = {row.model for row in record.targeted}
    return 1 in record.plan_of(point.model).weights and point.model not in targeted


def _obstacle(a: Record, b: Record) -> str:
    """The first thing in which two records differ so that they make no front; '' where they do."""
    features = [r.quality.features.sha256[:12] if r.quality.features else "none" for r in (a, b)]
    teachers = [(r.models[TEACHER].sha256 or "unknown")[:12] for r in (a, b)]
    pairs: tuple[tuple[str, Any, Any], ...] = (
        ("teacher", teachers[0], teachers[1]),
        ("number of real images", a.quality.num_reference, b.quality.num_reference),
        ("real images", a.quality.compared_with, b.quality.compared_with),
        ("classes", list(a.classes), list(b.classes)),
        ("feature network", features[0], features[1]),
        ("number of images", a.quality.num_images, b.quality.num_images),
        ("images of each class", a.quality.class_counts, b.quality.class_counts),
    )
    if found := next((f"{what} ({one} and {two})" for what, one, two in pairs if one != two), ""):
        return found
    if machine := other_machine(a, b):
        return f"machine ({machine})"
    return f"threads ({a.threads} and {b.threads})" if a.threads != b.threads else ""
