"""A run folder: which stages it has, whether they belong together, and the command that comes next."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dashdeploy import locate, stages
from dashdeploy.errors import UserError, shown
from dashdeploy.report.table import plain
from dashdeploy.show.stage import StageState, read_state, telling, unfinished
from dashdeploy.show.view import View, pairs, size
from dashdeploy.teachers import identity

ORDER = ("teacher", "student", "artifacts", "packages", "bench")
"""The stages, by the first folder of their names."""


@dataclass(frozen=True)
class RunState:
    """A run: its recipe's name, the teacher that its student was made from, and its stages in the order of the work.

    recipe, teacher: None where no stage says it. next: the command that comes next; "" while a process is at work.
    """

    folder: Path
    recipe: str | None
    seed: int | None
    teacher: str | None
    stages: tuple[StageState, ...]
    next: str

    def of(self, first: str) -> list[StageState]:
        """The stages in a folder of the run, or the one of this name."""
        return [stage for stage in self.stages if stage.name.split("/")[0] == first]

    def as_dict(self) -> dict[str, Any]:
        return {
            **{name: getattr(self, name) for name in ("folder", "recipe", "seed", "teacher", "next")},
            "stages": [stage.as_dict() for stage in self.stages],
        }


def is_run(folder: Path) -> bool:
    """Whether a folder holds a stage of a run, or the work on one."""
    return any(True for _ in (*_finished(folder), *_at_work(folder)))


def read_run(folder: Path, *, whole: bool = True) -> RunState:
    """The state of a run.

    Args:
        whole: check every file against its hash, and not only the manifests.
    """
    found = [read_state(path, name, whole=whole) for name, path in _finished(folder)]
    names = {state.name for state in found}
    found += [unfinished(path, name) for name, path in _at_work(folder) if name not in names]
    found.sort(key=lambda state: (ORDER.index(state.name.split("/")[0]), state.name))
    found = _compared(folder, found, whole=whole)
    made = [state.stage for state in found if state.stage is not None]
    recipe: dict[str, Any] = next((stage.manifest["recipe"] for stage in reversed(made)), {})
    student = next((s.stage for s in found if s.name == "student" and s.stage), None)
    teacher = str(student.figures.get("teacher")) if student else None
    name, seed = recipe.get("name"), recipe.get("seed")
    state = RunState(folder, name, seed, teacher, tuple(found), "")
    return replace(state, next=_next(state))


def view(state: RunState) -> View:
    """A run for `dashdeploy show`."""
    rows = [(s.name, s.state, size(s.size_bytes) if s.made else "", s.made or "", s.text) for s in state.stages]
    called = shown(state.folder)
    title = called if state.recipe is None else f"{called}: recipe {state.recipe}, seed {state.seed}"
    table = plain(title, ("Stage", "State", "Size", "Made", "Figures"), rows, text_columns=(0, 1, 3, 4))
    problems = [f"{s.name}: {s.state}: {s.why}" for s in state.stages if s.why]
    facts = pairs(
        teacher=state.teacher and shown(state.teacher),
        next=state.next or "wait until the process at work there has ended",
    )
    return View(state.as_dict(), (table, *problems, facts))


def _finished(folder: Path) -> Iterator[tuple[str, Path]]:
    """(name, folder) of every stage that is finished."""
    for first in ORDER:
        inside = [folder / first] if first in ("teacher", "student", "bench") else _children(folder / first)
        for path in inside:
            if (path / stages.MANIFEST).is_file():
                yield str(path.relative_to(folder)), path


def _at_work(folder: Path) -> Iterator[tuple[str, Path]]:
    """(name, work folder) of every stage that is being made, or whose making was interrupted."""
    for parent in (folder, folder / "artifacts", folder / "packages"):
        for path in _children(stages.work_path(parent / "x").parent):
            name = str((parent / path.name).relative_to(folder))
            if name.split("/")[0] in ORDER:
                yield name, path


def _children(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []


def _compared(folder: Path, found: list[StageState], *, whole: bool) -> list[StageState]:
    """The stages, with those stale that were made from something else than what is there now.

    whole: the teacher too is compared, for which all its files are read.
    """
    sha256 = {state.name: state.stage.sha256 for state in found if state.stage is not None}
    artifacts = {name.partition("/")[2]: sha for name, sha in sha256.items() if name.startswith("artifacts/")}
    compared = []
    for state in found:
        if state.stage is not None:
            try:
                with telling(state.stage.folder):
                    why = _stale(state.stage, state.name, sha256.get("student"), artifacts)
                    if state.name == "student" and whole:
                        why = _of_another_teacher(folder, state.stage)
            except UserError as problem:
                state = replace(state, state="unusable", why=str(problem), stage=None)
            else:
                state = replace(state, state="stale", why=why) if why else state
        compared.append(state)
    return compared


def _stale(stage: stages.Stage, name: str, student: str | None, artifacts: dict[str, str]) -> str:
    """Why a stage is stale; "": it is not. Of a student see `_of_another_teacher`."""
    inputs, kind = stage.manifest["inputs"], name.split("/")[0]
    of_student = kind in ("artifacts", "bench") or (kind == "packages" and "artifact" not in inputs)
    if of_student and inputs["student"] != student:
        return "made from another student" if student else "its student is missing or unusable"
    if kind == "packages" and not of_student and inputs["artifact"] not in artifacts.values():
        return "the artifact that it carries is not the one in this run"
    if kind == "bench":
        measured = inputs["artifacts"]
        if changed := [name for name, sha in artifacts.items() if measured.get(name) != sha]:
            return f"exported since then: {', '.join(changed)}"
        if gone := [name for name in measured if name not in artifacts]:
            return f"no longer there: {', '.join(gone)}"
    return ""


def _of_another_teacher(folder: Path, student: stages.Stage) -> str:
    """Why a student is stale; "": it is not, or its teacher is no longer there."""
    trained, used = folder / "teacher", Path(student.figures["teacher"])
    teacher = trained if (trained / stages.MANIFEST).is_file() else used
    if not teacher.is_dir():
        return ""
    try:
        same = (
            identity.as_taken(teacher, student.manifest["recipe"]["teacher"]) == student.manifest["inputs"]["teacher"]
        )
    except UserError as problem:
        return str(problem)
    return "" if same else f"{teacher} is another teacher than it was made from"


def _next(state: RunState) -> str:
    """The command that brings the run one stage on."""
    if any(stage.state == "at work" for stage in state.stages):
        return ""
    run = shown(shlex.quote(str(state.folder)))
    recipe = state.recipe if state.recipe in locate.available("recipes") else "RECIPE"
    parent = state.folder.parent if state.folder.name else state.folder.absolute().parent
    place = "" if parent == Path("runs") else f" --run-dir {shown(shlex.quote(str(parent)))}"
    if any(stage.state == "unusable" for stage in state.of("teacher")):
        return f"dashdeploy teach {recipe}{place} --fresh"
    student = next(iter(state.of("student")), None)
    if student is None or student.state != "finished":
        fresh = " --fresh" if student is not None and student.state in ("stale", "unusable") else ""
        return f"dashdeploy {'distill' if student else 'run'} {recipe}{place}{fresh}"
    again = [s for s in (*state.of("artifacts"), *state.of("packages")) if s.state != "finished"]
    if again or not state.of("artifacts"):
        targets = "".join(f" --to {shlex.quote(s.name.partition('/')[2])}" for s in again)
        folded = [w for s in again if s.stage and (w := s.stage.manifest["inputs"].get("guidance")) is not None]
        targets += f" -w {folded[0]:g}" if len(again) == 1 and folded else ""
        return f"dashdeploy export {run}{targets}"
    if [s.state for s in state.of("bench")] != ["finished"]:
        return f"dashdeploy bench {run}"
    return f"dashdeploy sample {run} -o samples.png"
