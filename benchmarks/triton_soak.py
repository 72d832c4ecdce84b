"""A Triton server by the step for an hour of everything: python benchmarks/triton_soak.py runs/digits --soak-minutes 60

Clients connect, ask and leave, over gRPC streams, gRPC and HTTP: images with and without previews, several at once,
wrong requests, too little time, too many at once, cancelled requests, and connections that are closed in the middle.
Every image is compared with the first one of its request. Memory, open files and threads of the server's processes are
compared between two quiet moments, after a tenth of the time and at the end. Writes benchmarks/results/triton-soak.json
and exits with 1 if anything grew, was lost or was wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from triton_soak_clients import Clients

from dashdeploy import stages
from dashdeploy.bench.measure.machine import machine
from dashdeploy.packages import schema
from dashdeploy.packages.stage import write_package

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import triton_server  # noqa: E402
import triton_setup  # noqa: E402

SEED = 0
WAITING = 24
"""Images that may wait, so that the queue is full now and then."""
WATCH_S = 5.0
QUIET_S = 4.0
"""Without requests, before the processes are looked at."""
GROWTH = 0.05
"""Of memory, that is no growth: allocators keep what they once had."""
SLACK = 2
"""Of files and threads: gRPC's pool has one more now and then."""
MIB = 1 << 20


def repository(run: Path, folder: Path) -> dict[str, Any]:
    """A model with previews and one without, of one student; the manifest's artifact."""
    artifact: dict[str, Any] = {}
    for name in ("stream", "plain"):
        what = schema.load("triton-steps")
        assert isinstance(what, schema.Package)
        changes = {"threads": 1, "model_name": name, "previews": name == "stream", "max_queue_size": WAITING}
        settings = what.package.model_copy(update=changes)
        stage = write_package(run, what.model_copy(update={"name": f"soak-{name}", "package": settings}))
        shutil.copytree(stage.folder / "model_repository", folder, dirs_exist_ok=True)
        artifact = stages.read_manifest(folder / name / "1" / "artifact")["artifact"]
    return artifact


def processes(group: int) -> list[Path]:
    """The /proc folders of a process group: the server and the backend's processes."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if int((folder / "stat").read_text().rpartition(")")[2].split()[2]) == group:
                found.append(folder)
        except OSError:  # it has ended meanwhile
            continue
    return found


def look(group: int) -> dict[str, int]:
    """Memory of its own, open files and threads of all processes of the server, and how many they are."""
    seen: Counter[str] = Counter()
    for folder in processes(group):
        try:
            status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
            # Resident, less what is shared: Triton's shared memory would count for each process that touches it.
            seen["memory_bytes"] += 1024 * int(status["RssAnon"].split()[0])
            seen["shared_bytes"] = max(seen["shared_bytes"], 1024 * int(status["RssShmem"].split()[0]))
            seen["threads"] += int(status["Threads"])
            seen["files"] += len(os.listdir(folder / "fd"))
            seen["processes"] += 1
        except (OSError, KeyError):
            continue
    return dict(seen)


def quiet(clients: Clients, group: int) -> dict[str, int]:
    """What the server holds when nobody asks."""
    clients.pause()
    seen = still(group)
    clients.resume()
    return seen


def still(group: int) -> dict[str, int]:
    """The least of some looks: the server's own timers open files for a moment."""
    time.sleep(QUIET_S)
    looks = []
    for _ in range(8):
        looks.append(look(group))
        time.sleep(0.3)
    return {what: min(seen.get(what, 0) for seen in looks) for what in looks[0]}


def soak(server: triton_server.Server, clients: Clients, minutes: float) -> dict[str, Any]:
    """The whole time; what was seen at the quiet moments and between them."""
    group, end = server.process.pid, time.monotonic() + 60 * minutes
    series: list[dict[str, float]] = []
    early: dict[str, int] | None = None
    begin = time.monotonic()
    clients.start()
    while (now := time.monotonic()) < end and server.process.poll() is None:
        if early is None and now - begin > 6 * minutes:
            early = quiet(clients, group)
        series.append({"minutes": (now - begin) / 60, **look(group)})
        print(f"{(now - begin) / 60:.1f} min: {series[-1]} {dict(clients.counts)}", file=sys.stderr)
        time.sleep(min(WATCH_S, max(0.0, end - time.monotonic())))
    clients.stop()
    return {"early": early, "late": still(group), "series": series[:: max(1, len(series) // 60)]}


def verdict(seen: dict[str, Any], counts: Counter[str], ended: dict[str, Any]) -> list[str]:
    """What did not hold, in words."""
    wrong = []
    early, late = seen["early"] or {}, seen["late"]
    if not early:
        wrong.append("the server ended, or the time was too short for two quiet moments")
    for what in ("files", "threads", "processes"):
        if early and late.get(what, 0) > early[what] + (SLACK if what != "processes" else 0):
            wrong.append(f"{what} grew from {early[what]} to {late.get(what)}")
    for what in ("memory_bytes", "shared_bytes"):
        if early and late.get(what, 0) > (1 + GROWTH) * early[what] + 8 * MIB:
            wrong.append(f"{what} grew from {early[what] / MIB:.0f} to {late.get(what, 0) / MIB:.0f} MiB")
    for what in ("lost", "differ", "unexpected"):
        if counts[what]:
            wrong.append(f"{counts[what]} requests: {what}")
    if ended != {"exit_code": 0, "processes_left": 0}:
        code, left = ended["exit_code"], ended["processes_left"]
        wrong.append(f"the end was not clean: exit code {code}, {left} processes left")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run folder with a student, as in runs/digits")
    parser.add_argument("--soak-minutes", type=float, default=60.0, help="default: %(default)s")
    parser.add_argument("--clients", type=int, default=8, help="threads that ask (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "triton-soak.json")
    asked = parser.parse_args()
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        artifact = repository(asked.run, Path(name) / "models")
        with triton_server.serve(Path(name) / "models") as server:
            clients = Clients(server.http, server.grpc, artifact["num_classes"], count=asked.clients, seed=asked.seed)
            seen = soak(server, clients, asked.soak_minutes)
            if (code := server.process.poll()) is not None:
                print(f"the server ended by itself, with exit code {code}:\n{server.log[-8000:]}", file=sys.stderr)
                return 1
            metrics = {
                name: sum(server.metric(f"dashdeploy_{name}", model) for model in ("stream", "plain"))
                for name in ("image_steps", "wasted_image_steps")
            }
            ended = {"exit_code": server.stop(), "processes_left": len(processes(server.process.pid))}
            if ended["exit_code"]:
                print(server.log[-3000:], file=sys.stderr)
            # Of a server without a GPU, one line is always there.
            errors = re.findall(r"^E\d{4} (?!.*CudaDriverHelper).*$", server.log, re.MULTILINE)[:20]
    wrong = verdict(seen, clients.counts, ended)
    result = {
        "artifact": "onnx-cpu",
        "minutes": asked.soak_minutes,
        "clients": asked.clients,
        "seed": asked.seed,
        "counts": dict(sorted(clients.counts.items())),
        "unexpected": clients.unexpected,
        **metrics,
        **seen,
        "end": ended,
        "log_errors": errors,
        "wrong": wrong,
        "threads_left_in_clients": threading.active_count() - 1,
        "machine": machine() | {"load_before": load_before},
        "versions": stages.versions() | {"nvidia-pytriton": triton_setup.WHEEL.split("==")[1]},
    }
    asked.out.write_text(json.dumps(result, indent=1) + "\n")
    print("\n".join(wrong) or "nothing grew, was lost or was wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
