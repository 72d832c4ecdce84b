"""Run every probe in a child process and turn whatever becomes of it into a row."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dashdeploy.doctor.children import Children
from dashdeploy.doctor.finding import CPU_RUNS, Finding
from dashdeploy.doctor.probes import PROBES

TIMEOUT_S = 60.0
AT_ONCE = 2
NAMES = tuple(PROBES)
"""Probes, in the order of the table."""
CHILD = (sys.executable, "-m", "dashdeploy.doctor.child")
RUNTIMES = ("onnxruntime", "openvino", "tensorrt", "tensorrt_rtx")
EXPORT_NEEDS = ("torch", "onnx")
BUILD_NEEDS = {"tensorrt": ("polygraphy",), "tensorrt_rtx": ("polygraphy",)}
RUN_NEEDS = {"tensorrt": ("torch_cuda",), "tensorrt_rtx": ("torch_cuda",)}


def examine(
    names: Sequence[str] = NAMES, *, timeout_s: float = TIMEOUT_S, child: Sequence[str] = CHILD
) -> dict[str, Finding]:
    """Every probe's finding by its name.

    Args:
        child: the command that runs one probe; its name and the answer's file are added.
    """
    children = Children()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        try:
            jobs = [pool.submit(probe, name, children, timeout_s=timeout_s, command=child) for name in names]
            return dict(zip(names, [job.result() for job in jobs], strict=True))
        except BaseException:  # Ctrl-C: no child is left behind
            pool.shutdown(wait=False, cancel_futures=True)
            children.stop()
            raise


def probe(name: str, children: Children, *, timeout_s: float, command: Sequence[str]) -> Finding:
    """One probe; a crash, a hang or a missing answer is a finding too."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "POLYGRAPHY_USE_TENSORRT_RTX": "1", "TQDM_DISABLE": "1"}
    with tempfile.TemporaryDirectory() as folder:
        answer, errors = Path(folder) / "finding.json", Path(folder) / "stderr"
        with errors.open("wb") as said:
            code = children.run([*command, name, str(answer)], environment=environment, said=said, timeout_s=timeout_s)
        finding, text = _read(answer), errors.read_text(encoding="utf-8", errors="replace")
    if code is None:
        return Finding(name, "broken", "", f"did not answer within {timeout_s:g} s", f"try it alone: {_alone(name)}")
    if code == 0 and finding is not None:
        return finding
    how = _ended(code, text)
    if finding is not None:  # it worked, and crashed while it was closed
        return Finding(finding.name, "broken", finding.version, f"{finding.detail}; but {how}", _alone(name))
    return Finding(name, "broken", "", how, f"see why: {_alone(name)}")


def _read(answer: Path) -> Finding | None:
    try:
        return Finding(**json.loads(answer.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _ended(code: int, said: str) -> str:
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = "unknown"
        return f"crashed: signal {-code} ({name})"
    if code == 0:
        return "ended without an answer"
    last = said.strip().splitlines()[-1:] or ["no message"]
    return f"failed: {last[0][:200]}"


def _alone(name: str) -> str:
    return shlex.join([*CHILD, name, "/dev/stdout"])


def healthy(findings: dict[str, Finding]) -> bool:
    """Whether nothing is broken and at least one runtime for artifacts works."""
    return not any(f.status == "broken" for f in findings.values()) and bool(backends(findings)["run"])


def backends(findings: dict[str, Finding]) -> dict[str, list[str]]:
    """Which deployment backends can be exported for here, and which run here."""
    works = {name for name, found in findings.items() if found.status == "ok" or CPU_RUNS in found.detail}
    lacking = findings.keys() - works
    build = [n for n in RUNTIMES if n in works and lacking.isdisjoint((*EXPORT_NEEDS, *BUILD_NEEDS.get(n, ())))]
    needs_gpu = {"tensorrt", "tensorrt_rtx"}
    run = [
        name
        for name in RUNTIMES
        if name in works and lacking.isdisjoint(RUN_NEEDS.get(name, ())) and (name not in needs_gpu or "gpu" in works)
    ]
    return {"export": build, "run": run}
