"""The summary of a comparison's runs: means over seeds with their range and spread, and the share of each term."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from pydantic import TypeAdapter

from dashdeploy.compare import alike
from dashdeploy.compare.alike import Record, Teaching
from dashdeploy.compare.spread import Spread
from dashdeploy.recipe.comparison import Comparison
from dashdeploy.training.timestep_weights import starved

FIGURES = ("fid", "kid", "fid_to_teacher", "accuracy", "pixel_distance", "confidence")
RESPONSES = ("energy_cosine", "rho")
GAPS = ("relative_error", "energy_cosine", "rho", "guided_error")


@dataclass(frozen=True)
class Run:
    """One finished run: its benchmark record, the teacher's SHA-256, and both timestep weights by decile of t.

    Empty weights: not known, as of a ready teacher without a manifest.
    """

    record: Record
    teacher: str
    weights: Sequence[float]
    teacher_weights: Sequence[float]


@dataclass(frozen=True)
class GapBin:
    """Relative error of the guidance gap over t_low ≤ t < t_high."""

    t_low: int
    t_high: int
    relative_error: Spread


@dataclass(frozen=True)
class Row:
    """One variant, or a teacher.

    Attributes:
        fid, kid, fid_to_teacher, accuracy: by the guidance's label; fid_to_teacher is to its teacher's images, accuracy
            a share.
        gap: figures of the guidance gap against its teacher, over all t; empty for a teacher.
        gap_by_t: the same in ranges of t.
        teacher: the row that holds the variant's teacher; None: this is a teacher.
        weight_by_decile: share of the loss's timestep weight in each tenth of t from clean to noise, as trained with.
        starved: the deciles (0 = cleanest) that hold less than 1 % of it.
        pixel_distance, confidence: by the guidance's label; to its teacher's images of the same noise, and of the
            classifier in the class that was asked for.
        response: figure -> guidance -> of the response to guidance over all timesteps, beside what decides, see
            `bench.record.response`.
        steps, evaluations: that its images were drawn in, and of its network for an image; None: a comparison of before
            they were counted.
    """

    name: str
    label: str
    fid: dict[str, Spread]
    kid: dict[str, Spread]
    fid_to_teacher: dict[str, Spread]
    accuracy: dict[str, Spread]
    gap: dict[str, Spread]
    gap_by_t: tuple[GapBin, ...]
    parameters: int
    images_seen: int
    teacher: str | None
    weight_by_decile: tuple[float, ...]
    starved: tuple[int, ...]
    pixel_distance: dict[str, Spread] = field(default_factory=dict)
    confidence: dict[str, Spread] = field(default_factory=dict)
    response: dict[str, dict[str, Spread]] = field(default_factory=dict)
    steps: int | None = None
    evaluations: int | None = None


@dataclass(frozen=True)
class Summary:
    """The result of a comparison.

    Attributes:
        rows: each teacher, then every variant.
        scales: the guidance's label -> w; None: guidance that changes over t.
        shares: term -> guidance -> share of the gain that is lost without it.
        closed: variant -> guidance -> share of the FID distance to the teacher that it closes.
        seeds: of the trainings.
        num_images: images of each FID.
        samplings: sampling seeds of each training.
        confirmed: the chosen variants on seeds that had no part in the choice; None: none were asked for.
    """

    rows: list[Row]
    scales: dict[str, float | None]
    shares: dict[str, dict[str, Spread]]
    closed: dict[str, dict[str, Spread]]
    seeds: tuple[int, ...]
    features: str
    num_images: int
    samplings: int
    confirmed: Summary | None

    @property
    def teachers(self) -> list[Row]:
        return [row for row in self.rows if row.teacher is None]

    @property
    def students(self) -> list[Row]:
        return [row for row in self.rows if row.teacher is not None]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def summarise(comparison: Comparison, runs: Mapping[tuple[str, int], Run]) -> Summary:
    """One summary of the runs of every (variant, seed), those of the confirmation included.

    Raises:
        UserError: the runs were measured otherwise, see `alike.refuse_unlike`, or disagree on their teacher's images.
    """
    records = {(v, seed): runs[v, seed].record for seed in comparison.seeds for v in comparison.variants}
    quality = next(iter(records.values()))["quality"]
    alike.refuse_unlike({f"{v} seed {seed}": record for (v, seed), record in records.items()})
    users: dict[Teaching, list[str]] = {}  # -> the variants that have it
    for name in comparison.variants:
        users.setdefault(_teaching(runs[name, comparison.seeds[0]]), []).append(name)
    teachers, students = [], []
    one_teacher = len({one.sha256 for one in users}) == 1
    for teaching, names in users.items():
        title = "teacher" if one_teacher else f"teacher of {comparison.variants[names[0]].label}"
        title += alike.title(teaching, list(users))
        name = "teacher" if len(users) == 1 else f"teacher:{names[0]}"
        alike.refuse_other_images({f"{n} seed {seed}": records[n, seed] for n in names for seed in comparison.seeds})
        teachers.append(_teacher_row(name, title, [runs[n, seed] for n in names for seed in comparison.seeds]))
    for name, variant in comparison.variants.items():
        of_seeds = [runs[name, seed] for seed in comparison.seeds]
        place = list(users).index(_teaching(of_seeds[0]))
        students.append(_row(name, variant.label, of_seeds, teacher=teachers[place].name))
    return Summary(
        rows=[*teachers, *students],
        scales={row["guidance"]: row["w"] for record in records.values() for row in record["quality"]["rows"]},
        shares=_shares(comparison, records) if comparison.shares else {},
        closed=_closed(comparison, records) if comparison.closes else {},
        seeds=comparison.seeds,
        features=quality["features"]["name"],
        num_images=quality["num_images"],
        samplings=len(quality["seeds"]),
        confirmed=summarise(again, runs) if (again := comparison.confirmation) else None,
    )


def _teaching(run: Run) -> Teaching:
    """A run's teacher, and how its images were drawn."""
    return Teaching.of(run.teacher, run.record)


def _steps(record: Record, model: str) -> int | None:
    """The steps of a model's images; None: a record of before models had plans of their own."""
    plan = alike.plan_of(record, model)
    return len(plan["timesteps"]) if plan else None


def parse(content: Mapping[str, Any]) -> Summary:
    """The summary in a compare.json.

    Raises:
        pydantic.ValidationError: a part of it is missing or of a wrong type.
    """
    return TypeAdapter(Summary).validate_python({field.name: content.get(field.name) for field in fields(Summary)})


def fids(record: Record, model: str = "student") -> dict[str, float]:
    """FID by guidance of one record."""
    return {scale: row["fid"]["value"] for scale, row in _quality(record, model).items()}


def _quality(record: Record, model: str) -> dict[str, Any]:
    return {row["guidance"]: row for row in record["quality"]["rows"] if row["model"] == model}


def _measured(records: list[Record], model: str) -> dict[str, Any]:
    """Each figure that there is, by guidance: the samplings of each record's training.

    The records of a teacher are of one training, whose samplings are those of all of them.
    """
    by_figure: dict[str, dict[str, list[dict[int, float]]]] = {name: {} for name in FIGURES}
    for record in records:
        for scale, row in _quality(record, model).items():
            for name, by_scale in by_figure.items():
                values = {one["seed"]: one[name] for one in row["by_seed"] if one.get(name) is not None}
                trainings = by_scale.setdefault(scale, [])
                if trainings and model == "teacher":
                    trainings[0] |= values
                elif values:
                    trainings.append(values)
    return {
        name: {
            scale: Spread.of([list(one.values()) for one in trainings]) for scale, trainings in of.items() if trainings
        }
        for name, of in by_figure.items()
    }


def _row(name: str, label: str, runs: list[Run], *, teacher: str) -> Row:
    records = [run.record for run in runs]
    fidelity = [record["fidelity"]["rows"][0] for record in records]
    weights = runs[0].weights
    return Row(
        name=name,
        label=label,
        response=_response(records),
        **_measured(records, "student"),
        gap={metric: Spread.of([[one["overall"][metric]] for one in fidelity]) for metric in GAPS},
        gap_by_t=tuple(map(_gap_bin, zip(*(one["bins"] for one in fidelity), strict=True))),
        parameters=records[0]["models"]["student"]["parameters"],
        images_seen=records[0]["images_seen"],
        teacher=teacher,
        weight_by_decile=tuple(weights),
        starved=tuple(starved(weights)),
        steps=_steps(records[0], "student"),
        evaluations=records[0]["models"]["student"].get("evaluations"),
    )


def _response(records: list[Record]) -> dict[str, dict[str, Spread]]:
    """Of the student in torch, over all seeds; empty where a record has none."""
    found: dict[str, dict[str, list[list[float]]]] = {name: {} for name in RESPONSES}
    for record in records:
        rows = (record.get("response") or {"rows": ()})["rows"]
        for row in (row for row in rows if row["model"] == "student" and row["t"] is None):
            decides = row["to_target"] or row["to_gap"]
            for name, by_scale in found.items():
                by_scale.setdefault(f"w={row['w']:g}", []).append([decides[name]])
    return {name: {scale: Spread.of(values) for scale, values in of.items()} for name, of in found.items()}


def _gap_bin(bins: Sequence[Mapping[str, Any]]) -> GapBin:
    """One range of t over all seeds."""
    return GapBin(bins[0]["t_low"], bins[0]["t_high"], Spread.of([[one["relative_error"]] for one in bins]))


def _teacher_row(name: str, label: str, runs: list[Run]) -> Row:
    first = runs[0]
    return Row(
        name=name,
        label=label,
        **_measured([run.record for run in runs], "teacher"),
        gap={},
        gap_by_t=(),
        parameters=first.record["models"]["teacher"]["parameters"],
        images_seen=0,
        teacher=None,
        weight_by_decile=tuple(first.teacher_weights),
        starved=tuple(starved(first.teacher_weights)),
        steps=_steps(first.record, "teacher"),
        evaluations=first.record["models"]["teacher"].get("evaluations"),
    )


def _shares(comparison: Comparison, records: Mapping[tuple[str, int], Record]) -> dict[str, dict[str, Spread]]:
    """(FID without the term − FID in full) / (FID of the baseline − FID in full), seed by seed.

    Guidances where the method gains nothing over the baseline at some seed are left out: a share of nothing is none.
    """
    asked = comparison.shares
    assert asked is not None
    shares: dict[str, dict[str, Spread]] = {}
    for term, without in asked.without.items():
        values: dict[str, list[float]] = {}
        for seed in comparison.seeds:
            full, base, less = (fids(records[name, seed]) for name in (asked.full, asked.baseline, without))
            for scale in (s for s in full if s in base and s in less):
                gain = base[scale] - full[scale]
                values.setdefault(scale, []).append((less[scale] - full[scale]) / gain if gain > 0 else float("nan"))
        shares[term] = _known(values)
    return shares


def _closed(comparison: Comparison, records: Mapping[tuple[str, int], Record]) -> dict[str, dict[str, Spread]]:
    """(FID of the named variant − FID) / (FID of the named variant − FID of its teacher), seed by seed.

    Guidances where the named variant is as good as its teacher at some seed, or is apart from it by no more than twice
    the standard deviation of the sampling, are left out: there is nothing to close.
    """
    leaves = comparison.closes
    assert leaves is not None
    measured = _measured([records[leaves, seed] for seed in comparison.seeds], "student")["fid"]
    noise = {scale: 2 * (spread.sampling or 0.0) for scale, spread in measured.items()}
    closed: dict[str, dict[str, Spread]] = {}
    for variant in (name for name in comparison.variants if name != leaves):
        values: dict[str, list[float]] = {}
        for seed in comparison.seeds:
            left, reached = fids(records[leaves, seed]), fids(records[variant, seed])
            teacher = fids(records[leaves, seed], "teacher")
            for scale in (s for s in left if s in reached and s in teacher):
                distance = left[scale] - teacher[scale]
                share = (left[scale] - reached[scale]) / distance if distance > noise[scale] else float("nan")
                values.setdefault(scale, []).append(share)
        closed[variant] = _known(values)
    return closed


def _known(values: Mapping[str, list[float]]) -> dict[str, Spread]:
    """Spreads over the seeds where none of them is NaN."""
    return {
        scale: Spread.of([[share] for share in shares])
        for scale, shares in values.items()
        if not any(map(math.isnan, shares))
    }
