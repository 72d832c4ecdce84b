"""Committed baselines of a recipe (recipes/baselines/<recipe>.json), quoted where they were measured alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dashdeploy.bench.record.parts import QualityRow
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
        found: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error})") from error
    return found, path


def conditions(record: dict[str, Any]) -> dict[str, Any]:
    """What two benchmark records must share for their figures to stand beside each other."""
    solver = record["settings"]["sampling"].get("solver", "ddim")
    return {
        "teacher_sha256": record["models"]["teacher"]["sha256"],
        "features_sha256": record["quality"]["features"]["sha256"],
        "num_images": record["quality"]["num_images"],
        "num_reference": record["quality"]["num_reference"],
        "student_parameters": record["models"]["student"]["parameters"],
        "images_seen": record["images_seen"],
        **({} if solver == "ddim" else {"solver": solver}),  # DDIM goes without saying in the committed files
    }


def differences(baselines: dict[str, Any], here: dict[str, Any]) -> list[str]:
    """In what the baselines were measured otherwise; empty where the figures can stand beside each other."""
    return [name for name, value in here.items() if baselines["conditions"].get(name) != value]


def quoted(
    recipe_name: str, rows: list[QualityRow], models: list[str], here: dict[str, Any]
) -> tuple[dict[str, Any] | None, str]:
    """The record's part of the baselines, None where there are none for it; and a note why not, or ''."""
    loaded = load(recipe_name)
    if loaded is None:
        return None, ""
    found, path = loaded
    if other := differences(found, here):
        return None, f"The committed baselines ({path.name}) differ in {', '.join(other)} and are not quoted."
    fids = {name: {r.guidance: r.fid.value for r in rows if r.model == name} for name in models}
    ours = next((fids[n] for n in fids if n.startswith("student-")), fids["student"])
    scratch = next(row["fid"] for row in found["rows"] if row["objective"] == "scratch")
    part = {
        "source": f"recipes/baselines/{path.name}",
        "rows": [{k: row[k] for k in ("name", "label", "fid", "energy_cosine", "rho")} for row in found["rows"]],
        "recovery": recovery(scratch, fids["teacher"], ours),
    }
    return part, ""


def recovery(scratch: dict[str, float], teacher: dict[str, float], student: dict[str, float]) -> dict[str, float]:
    """(FID of scratch − FID of the student) / (FID of scratch − FID of the teacher), per guidance that all three have.

    1: as good as the teacher; 0: no better than the same student trained from scratch on the same
    images. Left out where the teacher is not better than scratch.
    """
    return {
        scale: (scratch[scale] - student[scale]) / (scratch[scale] - teacher[scale])
        for scale in scratch
        if scale in teacher and scale in student and scratch[scale] > teacher[scale]
    }
