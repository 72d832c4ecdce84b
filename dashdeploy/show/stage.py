"""One stage of a run as its manifest says it: whether it is whole, when it was made, and its key figures."""

from __future__ import annotations

import datetime
import json
import math
import os
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from dashdeploy import manifest as manifests
from dashdeploy import stages
from dashdeploy.bench.record import record as records
from dashdeploy.errors import UserError, reading
from dashdeploy.report.cells import error as relative
from dashdeploy.report.cells import estimate, significant

State = Literal["finished", "stale", "unusable", "at work", "unfinished"]
METRICS = "metrics.jsonl"


@dataclass(frozen=True)
class StageState:
    """A stage of a run.

    Attributes:
        name: its folder within the run, as in artifacts/onnx-cpu.
        why: of all states but finished.
        made: when, by the local clock, to the second; None: it is not finished.
        figures: the key ones, by name. text: the same for a reader.
        stage: None: there is no manifest that can be read.
    """

    name: str
    state: State
    why: str = ""
    size_bytes: int = 0
    made: str | None = None
    figures: dict[str, Any] = field(default_factory=dict)
    text: str = ""
    stage: stages.Stage | None = None

    def as_dict(self) -> dict[str, Any]:
        names = ("name", "state", "why", "size_bytes", "made", "figures")
        return {name: getattr(self, name) for name in names}


def read_state(folder: Path, name: str, *, whole: bool) -> StageState:
    """A finished stage, not yet compared with the others.

    Args:
        whole: check every file against its hash, and not only the manifest.
    """
    try:
        stage = stages.read_stage(folder) if whole else stages.Stage(folder, stages.read_manifest(folder))
        with telling(folder):
            figures, text = key_figures(stage)
    except UserError as problem:
        return StageState(name, "unusable", str(problem))
    made = datetime.datetime.fromtimestamp((folder / stages.MANIFEST).stat().st_mtime).astimezone()
    held = sum(path.stat().st_size for path in map(folder.joinpath, stage.manifest["files"]) if path.is_file())
    return StageState(name, "finished", "", held, made.isoformat(" ", "seconds")[:19], figures, text, stage)


def telling(folder: Path) -> AbstractContextManager[None]:
    """For a block that takes values from a stage's manifest: what it lacks is told in terms of the file."""
    return reading(folder / stages.MANIFEST, "manifest", again="Make the stage again.")


def unfinished(work: Path, name: str) -> StageState:
    """A stage that is being made, or whose making was interrupted; `work` is its work folder."""
    step = _last_step(work / METRICS)
    reached = "" if step is None else f"step {step}"
    if _is_locked(work / "lock"):
        return StageState(name, "at work", reached)
    return StageState(name, "unfinished", f"interrupted after {reached}" if reached else "interrupted")


def key_figures(stage: stages.Stage) -> tuple[dict[str, Any], str]:
    """The few figures by which one knows a stage, by name and as one line.

    Raises:
        UserError: the artifact's manifest or the benchmark's record is damaged.
    """
    for name in ("recipe", "inputs", "figures"):
        if not isinstance(stage.manifest.get(name), dict):
            raise UserError(f"{stage.folder / stages.MANIFEST}: {name} is missing. Make the stage again.")
    if "artifact" in stage.manifest:
        return _of_artifact(manifests.read(stage))
    if stage.manifest["stage"] == "bench":
        return of_record(records.load_record(stage.folder / records.FILE))
    names = ("parameters", "compression", "guidance", "loss", "step")
    figures = {name: stage.figures[name] for name in names if stage.figures.get(name) is not None}
    words = {
        "parameters": "{:,} parameters",
        "compression": "{:.1f}× smaller",
        "guidance": "w = {:g} folded in",
        "loss": "loss {:.3g}",
        "step": "{:,} steps",
    }
    return figures, ", ".join(words[name].format(value) for name, value in figures.items())


def of_record(record: records.Record) -> tuple[dict[str, Any], str]:
    """Of a benchmark: the deployed student at the recipe's guidance, and its speed at the largest batch."""
    model, guidance = record.deployed, record.guidance
    figures: dict[str, Any] = {"model": model, "guidance": guidance}
    words = [record.label(model)]
    row = record.quality_at(model, guidance) or record.quality_at(records.STUDENT, guidance)
    if row is not None and math.isfinite(row.fid.value):
        figures |= {"fid": row.fid.value, "num_images": record.quality.num_images}
        words.append(f"FID {estimate(row.fid.value, row.fid.low, row.fid.high)} at {guidance}")
    if gap := record.fidelity_of(model) or record.fidelity_of(records.STUDENT):
        figures["gap_error"] = gap.overall.relative_error
        words.append(f"gap error {gap.overall.relative_error:.3f}")
    timed = max((r.batch_size for r in record.latency if r.model == model and r.scope == "sampler"), default=None)
    fastest = record.fastest(model, "sampler", timed) if timed is not None else None
    if fastest is not None:
        figures |= {"batch_size": timed, "sampler_p50_ms": fastest.p50_ms}
        words.append(f"{significant(fastest.p50_ms)} ms for {timed} images")
    return figures, ", ".join(words)


def _of_artifact(read: manifests.Manifest) -> tuple[dict[str, Any], str]:
    artifact, checks = read.artifact, read.figures
    figures: dict[str, Any] = {
        "backend": artifact.backend,
        "precision": artifact.precision,
        "graphs": list(artifact.graphs),
        "file_bytes": checks.file_bytes,
    }
    words = [f"{artifact.backend} {artifact.precision}"]
    if checks.parity is not None:
        figures["parity"] = checks.parity.worst.relative_error
        words.append(f"parity {relative(checks.parity.worst.relative_error)}")
    if checks.gate is not None:
        overall = checks.gate.rungs[-1].overall
        figures |= {"gap_error": overall.relative_error, "energy_cosine": overall.energy_cosine}
        words.append(f"gate: gap error {overall.relative_error:.4f}, cosine {overall.energy_cosine:.4f}")
    return figures, ", ".join(words)


def _last_step(metrics: Path) -> int | None:
    if not metrics.is_file():
        return None
    for line in reversed(metrics.read_text(encoding="utf-8", errors="replace").splitlines()):
        try:
            return int(json.loads(line)["step"])
        except (ValueError, KeyError, TypeError):  # cut short by a kill
            continue
    return None


def _is_locked(lock: Path) -> bool:
    """Whether a process holds the lock. To try it would keep a process out that starts at the same moment."""
    table = Path("/proc/locks")
    if not (lock.is_file() and table.is_file()):
        return False
    status = lock.stat()
    file = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    return any(file in line.split() for line in table.read_text(encoding="utf-8").splitlines())
