"""What a comparison's records add up to: means over seeds with their range, and the share of each term."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from dashdeploy.recipe.comparison import Comparison

Record = Mapping[str, Any]
GAPS = ("relative_error", "energy_cosine", "rho", "guided_error")


@dataclass(frozen=True)
class Spread:
    """A figure over seeds: its mean, and the smallest and largest value."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        return cls(statistics.fmean(values), min(values), max(values))


@dataclass(frozen=True)
class Row:
    """One variant, or the teacher. fid by guidance as tables name it; gap and gap_by_t against the teacher."""

    name: str
    label: str
    fid: dict[str, Spread]
    gap: dict[str, Spread]
    gap_by_t: dict[str, Spread]  # relative error by range of t, as in 0–99
    parameters: int
    images_seen: int


@dataclass(frozen=True)
class Summary:
    """rows: the teacher and every variant; shares: term -> guidance -> share of the gain that is lost without it."""

    rows: list[Row]
    shares: dict[str, dict[str, Spread]]
    seeds: tuple[int, ...]
    features: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def summarise(comparison: Comparison, records: Mapping[tuple[str, int], Record]) -> Summary:
    """One summary of the benchmark records of every (variant, seed)."""
    first = records[next(iter(comparison.variants)), comparison.seeds[0]]
    rows = [_teacher_row([records[job] for job in records])]
    for name, variant in comparison.variants.items():
        rows.append(_row(name, variant.label, [records[name, seed] for seed in comparison.seeds]))
    shares = _shares(comparison, records) if comparison.shares else {}
    return Summary(rows, shares, comparison.seeds, first["quality"]["features"]["name"])


def parse(content: Mapping[str, Any]) -> Summary:
    """The summary in a compare.json."""

    def spreads(found: Mapping[str, Any]) -> dict[str, Spread]:
        return {name: Spread(**value) for name, value in found.items()}

    rows = [Row(**{**row, **{k: spreads(row[k]) for k in ("fid", "gap", "gap_by_t")}}) for row in content["rows"]]
    shares = {term: spreads(found) for term, found in content["shares"].items()}
    return Summary(rows, shares, tuple(content["seeds"]), content["features"])


def fids(record: Record, model: str = "student") -> dict[str, float]:
    """FID by guidance of one record."""
    return {row["guidance"]: row["fid"]["value"] for row in record["quality"]["rows"] if row["model"] == model}


def _row(name: str, label: str, found: list[Record]) -> Row:
    by_seed = [fids(record) for record in found]
    fidelity = [record["fidelity"]["rows"][0] for record in found]
    bins = [{f"{b['t_low']}–{b['t_high'] - 1}": b["relative_error"] for b in one["bins"]} for one in fidelity]
    return Row(
        name=name,
        label=label,
        fid={scale: Spread.of([one[scale] for one in by_seed]) for scale in by_seed[0]},
        gap={metric: Spread.of([one["overall"][metric] for one in fidelity]) for metric in GAPS},
        gap_by_t={span: Spread.of([one[span] for one in bins]) for span in bins[0]},
        parameters=found[0]["models"]["student"]["parameters"],
        images_seen=found[0]["images_seen"],
    )


def _teacher_row(found: list[Record]) -> Row:
    scales = {scale: value for record in found for scale, value in fids(record, "teacher").items()}
    same = {scale: Spread(value, value, value) for scale, value in scales.items()}
    return Row("teacher", "teacher", same, {}, {}, found[0]["models"]["teacher"]["parameters"], 0)


def _shares(comparison: Comparison, records: Mapping[tuple[str, int], Record]) -> dict[str, dict[str, Spread]]:
    """(FID without the term − FID in full) / (FID of the baseline − FID in full), seed by seed.

    Guidances where the method gains nothing over the baseline at some seed are left out: a share of nothing is none.
    """
    asked = comparison.shares
    assert asked is not None
    found: dict[str, dict[str, Spread]] = {}
    for term, without in asked.without.items():
        values: dict[str, list[float]] = {}
        for seed in comparison.seeds:
            full, base, less = (fids(records[name, seed]) for name in (asked.full, asked.baseline, without))
            for scale in full.keys() & base.keys() & less.keys():
                gain = base[scale] - full[scale]
                values.setdefault(scale, []).append((less[scale] - full[scale]) / gain if gain > 0 else float("nan"))
        order = [scale for scale in fids(records[asked.full, comparison.seeds[0]]) if scale in values]
        found[term] = {s: Spread.of(values[s]) for s in order if all(v == v for v in values[s])}
    return found
