"""Run every probe in a child process and turn whatever becomes of it into a row."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dashdeploy.doctor.finding import Finding

TIMEOUT_S = 60.0
AT_ONCE = 2
NAMES = (
    *("python", "torch", "diffusers", "accelerate", "onnx", "onnxruntime", "openvino", "nncf"),
    *("gpu", "polygraphy", "tensorrt", "tensorrt_rtx", "cpp"),
)
"""Probes, in the order of the table; a test holds it against PROBES, which would import too much here."""
CHILD = (sys.executable, "-m", "dashdeploy.doctor.child")
RUNTIMES = ("onnxruntime", "openvino", "tensorrt", "tensorrt_rtx")


def examine(
    names: Sequence[str] = NAMES, *, timeout_s: float = TIMEOUT_S, child: Sequence[str] = CHILD
) -> dict[str, Finding]:
    """Every probe's finding by its name.

    Args:
        child: the command that runs one probe; its name and the answer's file are added.
    """
    running: set[subprocess.Popen[str]] = set()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        try:
            jobs = [pool.submit(probe, name, running, timeout_s=timeout_s, command=child) for name in names]
            return dict(zip(names, [job.result() for job in jobs], strict=True))
        except BaseException:  # Ctrl-C: no child is left behind
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list(running):
                process.kill()
            raise


def probe(name: str, running: set[subprocess.Popen[str]], *, timeout_s: float, command: Sequence[str]) -> Finding:
    """One probe; a crash, a hang or a missing answer is a finding too."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "POLYGRAPHY_USE_TENSORRT_RTX": "1", "TQDM_DISABLE": "1"}
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "finding.json"
        child = subprocess.Popen(
            [*command, name, str(answer)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=environment,
        )
        running.add(child)
        try:
            _, said = child.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            child.kill()
            child.communicate()
            return Finding(
                name, "broken", "", f"did not answer within {timeout_s:g} s", f"try it alone: {_alone(name)}"
            )
        finally:
            running.discard(child)
        finding = _read(answer)
    if child.returncode == 0 and finding is not None:
        return finding
    how = _ended(child.returncode, said)
    if finding is not None:  # it worked, and crashed while it was closed
        return Finding(finding.name, "broken", finding.version, f"{finding.detail}; but {how}", finding.fix)
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
    return f"{Path(sys.executable).name} -m dashdeploy.doctor.child {name} /dev/stdout"


def healthy(findings: dict[str, Finding]) -> bool:
    """Whether nothing is broken and at least one runtime for artifacts works."""
    return not any(f.status == "broken" for f in findings.values()) and bool(backends(findings)["run"])


def backends(findings: dict[str, Finding]) -> dict[str, list[str]]:
    """Which deployment backends can be exported for here, and which run here."""
    works = {name for name, found in findings.items() if found.status == "ok"}
    build = [name for name in RUNTIMES if name in works]
    needs_gpu = {"tensorrt", "tensorrt_rtx"}
    run = [name for name in build if name not in needs_gpu or "gpu" in works]
    return {"export": build, "run": run}
