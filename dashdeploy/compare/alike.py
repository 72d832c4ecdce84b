"""Whether the records of a comparison can stand in one table, and which variants have the same images of a teacher."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dashdeploy.bench.record.record import SOLVER_LABELS
from dashdeploy.errors import UserError
from dashdeploy.recipe.schema import Recipe

Record = Mapping[str, Any]
NEAR = 0.01
"""Relative; what another machine changes in a figure of the same images is less."""
TINY = 1e-4


@dataclass(frozen=True)
class Teaching:
    """A teacher, and how its images were drawn; guidance aside.

    Attributes:
        sha256: of the teacher.
        plan: its sampling plan as JSON, without guidance; '': a record of before models had plans of their own.
    """

    sha256: str
    plan: str

    @classmethod
    def of(cls, sha256: str, record: Record) -> Teaching:
        plan = plan_of(record, "teacher")
        kept = {key: value for key, value in plan.items() if key not in ("guidance", "weights")} if plan else None
        return cls(sha256, json.dumps(kept, sort_keys=True) if kept else "")

    def details(self) -> dict[str, str]:
        """How its images were drawn, in words."""
        plan = json.loads(self.plan) if self.plan else {}
        steps = plan.get("timesteps", ())
        return {
            "steps": f"{len(steps)} step{'' if len(steps) == 1 else 's'}" if steps else "",
            "solver": SOLVER_LABELS[plan["solver"]] if "solver" in plan else "",
            "clip_sample": "x_0 clipped" if plan.get("clip_sample") else "x_0 not clipped",
            "timesteps": f"t {steps[0]} … {steps[-1]}" if steps else "",
        }


def plan_of(record: Record, model: str) -> dict[str, Any] | None:
    """The plan of a model's images; None: a record of before models had plans of their own."""
    plan = record["models"][model].get("plan")
    return record["plans"][plan] if plan else None


def title(one: Teaching, among: list[Teaching]) -> str:
    """`, 8 steps`: what tells its images from those of the same teacher in the others; '' where it is alone.

    What differs at equal steps comes after them.
    """
    others = [other for other in among if other.sha256 == one.sha256 and other != one]
    if not others:
        return ""
    own = one.details()
    equal = [other.details() for other in others if other.details()["steps"] == own["steps"]]
    names = ["steps", *(name for name in own if any(other[name] != own[name] for other in equal))]
    return "".join(f", {own[name]}" for name in names if own[name])


def refuse_unlike(records: Mapping[str, Record]) -> None:
    """Refuse records that make no table, by their runs: they differ in their images, the real ones or the features.

    Raises:
        UserError: it names the first two that differ.
    """
    _refuse({name: _measured_with(record) for name, record in records.items()})


def refuse_unlike_recipes(recipes: Mapping[str, Recipe]) -> None:
    """The same of recipes by variant, before anything runs."""
    names = ("num_images", "seeds", "features", "features_weights", "reference")
    _refuse(
        {
            name: {f"bench.quality.{key}": getattr(recipe.bench.quality, key) for key in names}
            for name, recipe in recipes.items()
        }
    )


def _refuse(by_name: Mapping[str, Mapping[str, Any]]) -> None:
    first, *others = by_name
    for other in others:
        for what, value in by_name[first].items():
            if value != (differs := by_name[other][what]):
                raise UserError(
                    f"compare: {first} and {other} differ in {what} ({_shown(value)} and {_shown(differs)}), so their "
                    "FIDs make no table: give all variants the same, in the comparison's set"
                )


def _shown(value: Any) -> str:
    return "none" if value is None else str(value)


def _measured_with(record: Record) -> dict[str, Any]:
    quality = record["quality"]
    features, reference = quality["features"], quality.get("reference")
    return {
        "number of images": quality["num_images"],
        "number of sampling seeds": len(quality["seeds"]),
        "feature network": f"{features['name']} {features.get('sha256', '')[:12]}".rstrip() if features else None,
        "file of real images": reference["sha256"][:12] if reference else None,
        "number of real images": quality.get("num_reference"),
    }


def refuse_other_images(records: Mapping[str, Record]) -> None:
    """Refuse records, by their runs, of one teacher's images that disagree: of one seed all figures are equal.

    Raises:
        UserError: it names the two runs, the guidance and the figure.
    """
    known: dict[tuple[Any, ...], tuple[str, float]] = {}
    for name, record in records.items():
        for key, value in _figures(record):
            before, expected = known.setdefault(key, (name, value))
            if not math.isclose(value, expected, rel_tol=NEAR, abs_tol=TINY):
                scale, seed, figure = key
                raise UserError(
                    f"compare: the teacher's {figure} at {scale} of sampling seed {seed} is {expected:.4g} in {before} "
                    f"and {value:.4g} in {name}, and should be of the same images: measure both again with --fresh"
                )


def _figures(record: Record) -> Iterator[tuple[tuple[Any, ...], float]]:
    """((guidance, sampling seed, figure), value) of the teacher."""
    for row in record["quality"]["rows"]:
        if row["model"] == "teacher":
            for one in row["by_seed"]:
                for figure in ("fid", "kid", "accuracy"):
                    if one.get(figure) is not None:
                        yield (row["guidance"], one["seed"], figure), one[figure]
