"""The runs in a folder, a line each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dashdeploy.errors import UserError, shown
from dashdeploy.report.cells import MISSING, count, significant, times
from dashdeploy.report.table import plain
from dashdeploy.show.run import RunState, is_run, read_run
from dashdeploy.show.view import View


def list_runs(folder: Path) -> list[Path]:
    """The run folders in `folder`, and those of comparisons, which lie in <comparison>/<variant>/seed<n>."""
    found = []
    for path in _folders(folder):
        found += [path] if is_run(path) else [run for variant in _folders(path) for run in _seeds(variant)]
    return found


def listing(folder: Path) -> View:
    """The runs in a folder for `dashdeploy ls`.

    Raises:
        UserError: there is no such folder.
    """
    if not folder.is_dir():
        if folder.exists():
            raise UserError(f"{shown(folder)}: a file, and a folder is needed. Name the folder of your runs.")
        raise UserError(f"{shown(folder)}: no such folder. `dashdeploy run` makes it; or name the folder of your runs.")
    states = [read_run(path, whole=False) for path in list_runs(folder)]
    table = plain(
        f"{len(states)} run{'s' if len(states) != 1 else ''} in {shown(folder)}",
        ("Run", "Stages", "State", "Parameters", "Smaller", "FID", "Last made"),
        [_row(folder, state) for state in states],
        text_columns=(0, 1, 2, 6),
    )
    return View(
        {"runs": [state.as_dict() for state in states]}, (table,) if states else (f"no runs in {shown(folder)}",)
    )


def _row(folder: Path, state: RunState) -> tuple[str, ...]:
    student: dict[str, Any] = next((stage.figures for stage in state.of("student")), {})
    bench: dict[str, Any] = next((stage.figures for stage in state.of("bench")), {})
    artifacts = len(state.of("artifacts"))
    named = [first for first in ("teacher", "student") if state.of(first)]
    named += [f"{artifacts} artifact{'s' if artifacts > 1 else ''}"] if artifacts else []
    named += [stage.name.partition("/")[2] for stage in state.of("packages")]
    named += ["bench"] if state.of("bench") else []
    others = [f"{stage.name} {stage.state}" for stage in state.stages if stage.state != "finished"]
    fid = bench.get("fid")
    return (
        shown(state.folder.relative_to(folder)),
        ", ".join(named),
        "; ".join(others) or "finished",
        count(student.get("parameters")),
        times(student["compression"]) if "compression" in student else MISSING,
        MISSING if fid is None else f"{significant(fid)} at {bench['guidance']}",
        max((stage.made for stage in state.stages if stage.made), default=MISSING),
    )


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _seeds(variant: Path) -> list[Path]:
    return [path for path in _folders(variant) if path.name.startswith("seed") and is_run(path)]
