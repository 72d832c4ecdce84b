"""A teacher's hash, without opening it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dashdeploy import stages

CONFIGS = ("config.json", "scheduler_config.json")


def sha256(folder: Path) -> str:
    """A teacher's hash: over its tensors (weights and λ) and its model and scheduler configuration.

    Raises:
        UserError: there are none, or its links lead in a circle.
    """
    return stages.folder_sha256(folder, keep=_counts)


def _counts(path: Path) -> bool:
    # The index of shards says which of them are read.
    return path.suffix in (".safetensors", ".bin") or path.name in CONFIGS or ".index" in path.suffixes


def with_rows(whole: str, rows: tuple[int, ...], num_rows: int) -> str:
    """The hash of a teacher of which these rows of its label embedding are taken: all of them in their order, or not.

    Args:
        whole: see `sha256`.
        num_rows: that the embedding has.
    """
    return whole if rows == tuple(range(num_rows)) else stages.digest({"teacher": whole, "rows": rows})


def as_taken(folder: Path, section: Mapping[str, Any]) -> str:
    """A teacher's hash as a recipe takes it, without its weights: what a student's manifest has as its input.

    Args:
        section: the recipe's `teacher`, as plain values.

    Raises:
        UserError: see `sha256`; or the recipe names a row that is not there.
    """
    whole = sha256(folder)
    if section.get("labels") is None and section.get("null_class") is None:
        return whole
    from dashdeploy.recipe.schema import Teacher
    from dashdeploy.teachers import networks, rows  # they import torch

    num_rows = rows.number(networks.read_config(folder, role="teacher"))
    return with_rows(whole, rows.chosen(Teacher.model_validate(section), num_rows), num_rows)
