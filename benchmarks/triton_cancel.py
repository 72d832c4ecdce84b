"""How long a cancelled request holds its place in a Triton server: python benchmarks/triton_cancel.py runs/digits

A server of the python backend by the step, of one instance, whose places are all taken by requests of 1000 steps. One
of them is cancelled, and a request of one step, which waited, gets its place: the time from cancelling to its image, in
turns with the time to the image where a place was free. Writes benchmarks/results/triton-cancel.json.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from triton_load import Target, to_a_free_place
from triton_steps import packages, step_times

from dashdeploy import stages
from dashdeploy.bench.measure.machine import machine

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import triton_server  # noqa: E402

TRIALS, LONG = 15, 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run folder with a student, as in runs/digits")
    parser.add_argument("--threads", type=int, default=2, help="of the model (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "triton-cancel.json")
    asked = parser.parse_args()
    made = packages(asked.run, asked.threads, instances=1)["steps"]
    (folder,) = made.folder.glob("model_repository/*/1/artifact")
    classes = stages.read_manifest(folder)["artifact"]["num_classes"]
    with tempfile.TemporaryDirectory() as name:
        shutil.copytree(made.folder / "model_repository", repository := Path(name) / "models")
        with triton_server.serve(repository) as server:
            times, places = step_times(server)
            target = Target(server.grpc, made.figures["model"], classes)
            to_a_free_place(target, places, steps=LONG, cancel=False)  # not counted
            found: dict[bool, list[float]] = {True: [], False: []}
            for _ in range(TRIALS):
                for cancel, ones in found.items():
                    ones.append(to_a_free_place(target, places, steps=LONG, cancel=cancel))
    result = {
        "places": places,
        "step_ms": times[str(places)],
        "threads": asked.threads,
        "trials": TRIALS,
        "from_cancel_to_image_ms": statistics.median(found[True]),
        "to_image_with_a_free_place_ms": statistics.median(found[False]),
        "machine": machine(),
        "versions": stages.versions(),
    }
    asked.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
