"""Committed baselines of a recipe (recipes/baselines/<recipe>.json), quoted where the conditions were the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dashdeploy.bench.record.parts import BaselineRow, Baselines
from dashdeploy.bench.record.record import RECIPE_PLAN, STUDENT, TEACHER, Record
from dashdeploy.errors import UserError
from dashdeploy.locate import data_root


def load(recipe_name: str) -> tuple[dict[str, Any], Path] | None:
    """The committed baselines of a recipe and their file, or None where there are none.

    Raises:
        UserError: the file is damaged.
    """
    path = data_root("recipes") / "baselines" / f"{recipe_name}.json"
    if not path.is_file():
        return None
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error})") from error
    return content, path


def conditions(record: Record) -> dict[str, Any]:
    """What two benchmark records must share so that their figures can be compared."""
    return {
        "teacher_sha256": record.models[TEACHER].sha256,
        "features_sha256": record.quality.features.sha256 if record.quality.features else None,
        "num_images": record.quality.num_images,
        "num_reference": record.quality.num_reference,
        "class_counts": list(record.quality.class_counts),
        "student_parameters": record.models[STUDENT].parameters,
        "images_seen": record.images_seen,
        "solver": record.plans[RECIPE_PLAN].solver,
    }


def quoted(record: Record) -> tuple[Baselines | None, str]:
    """The committed baselines as a part of this record, and a note.

    None and '' where the recipe has none; None and a note where theirs were other conditions.
    """
    loaded = load(record.recipe)
    if loaded is None:
        return None, ""
    content, path = loaded
    here = conditions(record)
    if differing := [name for name, value in here.items() if content["conditions"].get(name) != value]:
        return None, f"The committed baselines ({path.name}) differ in {', '.join(differing)} and are not quoted."
    scratch = next(row["fid"] for row in content["rows"] if row["objective"] == "scratch")
    names = BaselineRow.model_fields
    return Baselines(
        source=f"recipes/baselines/{path.name}",
        rows=tuple(BaselineRow(**{name: row[name] for name in names}) for row in content["rows"]),
        recovery=recovery(scratch, fids(record, TEACHER), fids(record, record.deployed)),
    ), ""


def fids(record: Record, model: str) -> dict[str, float]:
    """FID of one model by the guidance's label."""
    return {row.guidance: row.fid.value for row in record.quality.rows if row.model == model}


def recovery(scratch: dict[str, float], teacher: dict[str, float], student: dict[str, float]) -> dict[str, float]:
    """(FID of scratch − FID of the student) / (FID of scratch − FID of the teacher), per guidance that all three have.

    1: as good as the teacher; 0: no better than the same student trained from scratch on the same images. Guidances
    where the teacher is not better than scratch are left out.
    """
    return {
        scale: (scratch[scale] - student[scale]) / (scratch[scale] - teacher[scale])
        for scale in scratch
        if scale in teacher and scale in student and scratch[scale] > teacher[scale]
    }
