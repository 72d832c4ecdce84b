"""A Triton server by the step and with dynamic batches: python benchmarks/triton_steps.py runs/digits --minutes 20

Two real servers of the python backend run side by side on the loopback address; only one is asked at a time, in turns.
Requests ask for 10, 20 or 50 steps, or for 1, 2 or 4. Closed loops of 4, 16 and 32 clients; then requests that arrive
by chance at 30, 60 and 90 % of the dynamic server's images/s with 32 clients; and at 60 % with a fifth of them
cancelled. Writes benchmarks/results/triton-steps.json.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import triton_load
from triton_load import WORKLOADS, Target

from dashdeploy import stages
from dashdeploy.bench.measure.machine import machine
from dashdeploy.packages import schema
from dashdeploy.packages.stage import write_package

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import triton_server  # noqa: E402
import triton_setup  # noqa: E402

MODES = ("dynamic", "steps")
CLIENTS = (4, 16, 32)
LOADS = (0.3, 0.6, 0.9)
CANCEL_SHARE, CANCEL_LOAD = 0.2, 0.6
SEED = 0
COUNTERS = ("dashdeploy_image_steps", "dashdeploy_wasted_image_steps")
Row = dict[str, Any]


def packages(run: Path, threads: int, *, instances: int | None = None) -> dict[str, stages.Stage]:
    """Both packages; they differ in the scheduler.

    Args:
        instances: of that by the step; None: one for each thread.
    """
    made = {}
    for mode in MODES:
        what = schema.load("triton")
        assert isinstance(what, schema.Package)
        count = (instances or threads) if mode == "steps" else 1
        settings = what.package.model_copy(
            update={"scheduler": mode, "instances": count, "threads": max(1, threads // count)}
        )
        name = "triton" if mode == "dynamic" else "bench-steps"
        made[mode] = write_package(run, what.model_copy(update={"package": settings, "name": name}))
    return made


@contextmanager
def servers(made: dict[str, stages.Stage]) -> Iterator[dict[str, triton_server.Server]]:
    """Both servers, by mode."""
    with tempfile.TemporaryDirectory() as name:
        folders = {m: Path(name) / m for m in MODES}
        for mode, folder in folders.items():
            shutil.copytree(made[mode].folder / "model_repository", folder)
        with triton_server.serve(folders["dynamic"]) as dynamic, triton_server.serve(folders["steps"]) as by_step:
            yield {"dynamic": dynamic, "steps": by_step}


def step_times(server: triton_server.Server) -> tuple[dict[str, float], int]:
    """The table that the server has measured (ms by batch size), and its places."""
    found = re.search(r"step_times (\{.*?\}) \(ms by batch size\): (\d+) places", server.log.replace('\\"', '"'))
    if found is None:
        raise RuntimeError(f"the server's log has no table of step times:\n{server.log[-2000:]}")
    return json.loads(found[1]), int(found[2])


class Measuring:
    """Rows over the rounds: each cell is measured in both modes, in turns.

    Args:
        seconds: of one measurement.
    """

    def __init__(self, running: dict[str, triton_server.Server], model: str, num_classes: int, seconds: float) -> None:
        self.running, self.model, self.seconds = running, model, seconds
        self.targets = {mode: Target(server.grpc, model, num_classes) for mode, server in running.items()}
        self.found: dict[tuple[str, str, float, str], list[dict[str, float]]] = {}

    def cell(self, number: int, key: tuple[str, str, float], ask: Callable[[Target], dict[str, float]]) -> None:
        """One cell of one round; key: the workload, the loop, and its clients or load."""
        for mode in MODES if number % 2 == 0 else reversed(MODES):
            before = self.counters(mode)
            one = ask(self.targets[mode])
            now = self.counters(mode)
            for name, was, is_now in zip(("image_steps", "wasted_image_steps"), before, now, strict=True):
                one[name] = is_now - was
            self.found.setdefault((*key, mode), []).append(one)
            print(f"round {number + 1}, {' '.join(map(str, key))}, {mode}: {one}", file=sys.stderr)

    def counters(self, mode: str) -> list[float]:
        """Steps that ran and that were wasted so far; the server reports them four times a second."""
        time.sleep(0.5)
        return [self.running[mode].metric(name, self.model) for name in COUNTERS]

    def median(self, key: tuple[str, str, float], mode: str, what: str) -> float:
        """Over the rounds so far."""
        return statistics.median(one[what] for one in self.found[*key, mode])

    def round(self, number: int) -> None:
        """Every cell once."""
        seed, seconds = SEED + number, self.seconds
        for workload in WORKLOADS:
            for clients in CLIENTS:
                self.cell(
                    number,
                    (workload, "closed", clients),
                    partial(triton_load.closed, workload=workload, clients=clients, seconds=seconds, seed=seed),
                )
            capacity = self.median((workload, "closed", CLIENTS[-1]), "dynamic", "images_per_s")
            for load in LOADS:
                self.cell(
                    number,
                    (workload, "open", load),
                    partial(triton_load.opened, workload=workload, rate=load * capacity, seconds=seconds, seed=seed),
                )
        # Cancelled at a time when, in the faster mode, half of the requests would be done.
        within_s = min(self.median(("mixed", "open", CANCEL_LOAD), mode, "p50_ms") for mode in MODES) / 1e3
        rate = CANCEL_LOAD * self.median(("mixed", "closed", CLIENTS[-1]), "dynamic", "images_per_s")
        self.cell(
            number,
            ("mixed", "cancels", CANCEL_LOAD),
            lambda to: triton_load.opened(
                to, "mixed", rate, seconds, seed=seed, cancel_share=CANCEL_SHARE, cancel_within_s=within_s
            ),
        )

    def rows(self) -> list[Row]:
        """Medians over the rounds."""
        return [
            {"workload": workload, "loop": loop, "at": at, "mode": mode, "rounds": len(ones)}
            | {what: statistics.median(one[what] for one in ones) for what in ones[0]}
            for (workload, loop, at, mode), ones in self.found.items()
        ]


CELLS = len(WORKLOADS) * (len(CLIENTS) + len(LOADS)) + 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run folder with a student, as in runs/digits")
    parser.add_argument("--minutes", type=float, default=20.0, help="that all takes, about (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2, help="of a model (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "triton-steps.json")
    asked = parser.parse_args()
    made = packages(asked.run, asked.threads)
    (manifest,) = made["steps"].folder.glob("model_repository/*/1/artifact")
    artifact = stages.read_manifest(manifest)["artifact"]
    load_before = os.getloadavg()[0]
    # Beside the load itself: two looks at the counters, half a second each, and the last answers.
    seconds = max(1.0, 60 * asked.minutes / (asked.rounds * CELLS * len(MODES)) - 1.5)
    with servers(made) as running:
        times, places = step_times(running["steps"])
        measuring = Measuring(running, made["steps"].figures["model"], artifact["num_classes"], seconds)
        for mode in MODES:  # not counted
            triton_load.closed(measuring.targets[mode], "mixed", 4, 1.0, seed=SEED)
        for number in range(asked.rounds):
            measuring.round(number)
    settings = made["dynamic"].manifest["inputs"]["package"]["package"]
    result = {
        "artifact": "onnx-cpu",
        "workloads": {name: list(steps) for name, steps in WORKLOADS.items()},
        "max_queue_delay_us": settings["max_queue_delay_us"],
        "max_batch_size": settings["max_batch_size"],
        "protocol": "grpc",
        "seed": SEED,
        "rounds": asked.rounds,
        "seconds": seconds,
        "threads": asked.threads,
        "cancel_share": CANCEL_SHARE,
        "step_times_ms": times,
        "places": places,
        "rows": measuring.rows(),
        "machine": machine() | {"load_before": load_before},
        # onnxruntime is the server's too; its numpy is another.
        "versions": stages.versions() | {"nvidia-pytriton": triton_setup.WHEEL.split("==")[1]},
    }
    asked.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result["rows"], indent=1))


if __name__ == "__main__":
    main()
