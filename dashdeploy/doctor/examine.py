"""Run every probe in a child process, make a row of whatever becomes of it, and say what the rows mean together."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from dashdeploy.doctor.probes import CPU_RUNS, PROBES, Row

AT_ONCE = 2
CHILD = (sys.executable, "-m", "dashdeploy.doctor.probes")


def examine(
    names: Sequence[str] = tuple(PROBES), *, timeout_s: float = 60.0, child: Sequence[str] = CHILD
) -> dict[str, Row]:
    """Every probe's row by its name. `child` runs one probe: the probe's name and the answer's file are added to it."""

    async def rows() -> list[Row]:
        turn = asyncio.Semaphore(AT_ONCE)
        with TemporaryDirectory() as folder:
            return await asyncio.gather(*(_row([*child, name], Path(folder, name), timeout_s, turn) for name in names))

    return dict(zip(names, asyncio.run(rows()), strict=True))


async def _row(command: Sequence[str], answer: Path, timeout_s: float, turn: asyncio.Semaphore) -> Row:
    """Run one probe. A crash is a row too; no child outlives this call or Ctrl-C, nor does what it has started."""
    said, code, quiet, row = answer.with_suffix(".err"), None, asyncio.subprocess.DEVNULL, None
    async with turn:
        with said.open("wb") as errors:  # a pipe would be held open by whatever the probe starts
            process = await asyncio.create_subprocess_exec(
                *command, str(answer), stdin=quiet, stdout=quiet, stderr=errors, process_group=0
            )
        try:
            code = await asyncio.wait_for(process.wait(), timeout_s)
            how = f"failed: {(said.read_text(errors='replace').strip().splitlines() or ['no message'])[-1][:200]}"
        except TimeoutError:
            how = f"did not answer within {timeout_s:g} s"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    with contextlib.suppress(OSError, ValueError, TypeError):
        row = Row(*json.loads(answer.read_text(encoding="utf-8")))
    if code == 0 and row is not None:
        return row
    if code is not None and code <= 0:
        name = {s.value: s.name for s in signal.Signals}.get(-code, "unknown")
        how = f"crashed: signal {-code} ({name})" if code else "ended without an answer"
    fix = f"see why: {' '.join(CHILD)} {answer.name} /dev/stdout"
    # With a row it worked, and crashed at its end.
    return Row("broken", row.version if row else "", f"{row.detail}; but {how}" if row else how, fix)


def healthy(rows: dict[str, Row]) -> bool:
    """Whether nothing is broken and at least one runtime for artifacts works."""
    return not any(row.status == "broken" for row in rows.values()) and bool(backends(rows)["run"])


def backends(rows: dict[str, Row]) -> dict[str, list[str]]:
    """Which deployment backends can be exported for here, and which run here."""
    works = {name for name, row in rows.items() if row.status == "ok" or CPU_RUNS in row.detail}
    lacks = rows.keys() - works
    others: list[str] = [name for name in ("onnxruntime", "openvino") if name in works]
    engines: list[str] = [name for name in ("tensorrt", "tensorrt_rtx") if name in works]
    export = [] if lacks & {"torch", "onnx"} else others + ([] if "polygraphy" in lacks else engines)
    return {"export": export, "run": others + (engines if "gpu" in works and "torch_cuda" not in lacks else [])}
