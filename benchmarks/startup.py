"""Start-up time of the command line: python benchmarks/startup.py

Runs each command several times in a process of its own and writes benchmarks/results/startup.json.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from dashdeploy import stages
from dashdeploy.bench.measure.machine import machine

COMMANDS = (["--help"], ["distill", "--help"], ["recipes", "ls"], ["recipes", "validate", "digits"])
REPEATS = 11


def main() -> None:
    program = Path(sys.executable).with_name("dashdeploy")
    times: dict[str, list[float]] = {" ".join(c): [] for c in COMMANDS}
    for _ in range(REPEATS):
        for command in COMMANDS:
            start = time.perf_counter()
            subprocess.run([program, *command], check=True, capture_output=True)
            times[" ".join(command)].append(time.perf_counter() - start)
    medians = {name: sorted(values)[REPEATS // 2] for name, values in times.items()}
    result = {"repeats": REPEATS, "median_s": medians, "machine": machine(), "versions": stages.versions()}
    (Path(__file__).parent / "results" / "startup.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(medians, indent=1))


if __name__ == "__main__":
    main()
