"""What lies at a path, whatever it is: the one door of `dashdeploy show`."""

from __future__ import annotations

import json
import os
from pathlib import Path

from dashdeploy import stages
from dashdeploy.bench.record.record import FILE, load_record
from dashdeploy.bench.report.markdown import summary
from dashdeploy.errors import UserError, reading, shown
from dashdeploy.show import artifact, run, teacher
from dashdeploy.show.list import list_runs, listing
from dashdeploy.show.stage import StageState, read_state, telling
from dashdeploy.show.view import View, pairs, size

COMPARISON = "compare.json"


def look(path: Path, *, recipe: str | None = None) -> View:
    """What lies at `path`: a run, a stage of one, a teacher, a record, a comparison, or an .onnx file.

    Args:
        recipe: of a teacher: measure on this recipe's data whether its labels are the data's classes. None: do not.

    Raises:
        UserError: nothing there, something else, or it is damaged.
    """
    if recipe is not None:
        if not teacher.is_model(path):
            raise UserError(f"{shown(path)}: not a teacher's folder, and --recipe is about a teacher.")
        described, measured = look(path), teacher.meaning(path, recipe)
        return View({**described.data, **measured.data}, (*described.parts, *measured.parts))
    if not os.path.exists(path):
        raise UserError(
            f"{shown(path)}: no such file or folder. Give a run folder, an artifact, a teacher, a bench folder or "
            "bench.json, a comparison's folder, or an .onnx file. `dashdeploy ls` lists the runs."
        )
    if path.is_file():
        return _file(path)
    if (path / stages.MANIFEST).is_file():
        return _stage(path)
    if run.is_run(path):
        return run.view(run.read_run(path))
    if (path / FILE).is_file():
        return record_view(path / FILE)
    if (path / COMPARISON).is_file():
        return _comparison(path)
    if teacher.is_model(path):
        return teacher.view(path)
    if list_runs(path):
        return listing(path)
    raise UserError(f"{shown(path)}: holds neither a run, an artifact, a teacher nor a benchmark.")


def record_view(path: Path) -> View:
    """A benchmark's record: its tables, and where its report is.

    Raises:
        UserError: it is damaged.
    """
    record = load_record(path)
    report = path.with_name("report.html")
    return View(record.model_dump(mode="json"), (*summary(record), *([shown(report)] if report.is_file() else [])))


def _file(path: Path) -> View:
    if path.suffix == ".onnx":
        return artifact.view_onnx(path)
    if path.name == stages.MANIFEST:
        return _stage(path.parent)
    if path.name == COMPARISON:
        return _comparison(path.parent)
    if path.suffix == ".json":
        return record_view(path)
    if path.suffix in (".yaml", ".yml"):
        raise UserError(f"{shown(path)}: a YAML file. `dashdeploy run {path} --dry-run` prints a recipe, resolved.")
    raise UserError(f"{shown(path)}: a file of a kind that is not ours. Give a folder, bench.json or an .onnx file.")


def _stage(folder: Path) -> View:
    stage = stages.read_stage(folder)
    with telling(folder):
        return _of_stage(folder, stage)


def _of_stage(folder: Path, stage: stages.Stage) -> View:
    if "artifact" in stage.manifest:
        return artifact.view(stage)
    if stage.manifest["stage"] == "bench":
        return record_view(folder / FILE)
    if teacher.is_model(folder):
        found, state = teacher.view(folder), read_state(folder, folder.name, whole=False)
        return View({**found.data, "figures": stage.figures}, (*found.parts, _made(state)))
    return artifact.view_package(stage)


def _made(state: StageState) -> str:
    return pairs(figures=state.text, made=state.made, files=f"{size(state.size_bytes)}; every SHA-256 is right")


def _comparison(folder: Path) -> View:
    path = folder / COMPARISON
    with reading(path, "comparison's result", again="Run `dashdeploy compare` again."):
        content = dict(json.loads(path.read_bytes()))
    markdown = folder / "compare.md"
    text = (
        markdown.read_text(encoding="utf-8", errors="replace") if markdown.is_file() else json.dumps(content, indent=1)
    )
    return View(content, (text.rstrip("\n"),))
