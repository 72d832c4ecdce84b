"""A Triton server with dynamic batching on and off: python benchmarks/triton_serving.py runs/digits

Two real servers of the python backend run side by side on the loopback address; only one is asked at a time, in turns.
Each of 1, 4 and 16 clients sends one request after the other. Writes benchmarks/results/triton.json.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from triton_load import Target, closed
from tritonclient.grpc import model_config_pb2

from dashdeploy import stages
from dashdeploy.bench.measure.machine import machine
from dashdeploy.packages import schema
from dashdeploy.packages.stage import write_package

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import triton_server  # noqa: E402
import triton_setup  # noqa: E402

CLIENTS = (1, 4, 16)
MODES = ("on", "off")
SEED = 0


def repository(package_folder: Path, folder: Path, *, batching: str, threads: int) -> Path:
    """A copy of a package's repository with dynamic batching on or off and the threads set."""
    shutil.copytree(package_folder / "model_repository", folder)
    (path,) = folder.glob("*/config.pbtxt")
    config = text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
    config.parameters["threads"].string_value = str(threads)
    if batching == "off":
        config.ClearField("dynamic_batching")
    path.write_text(text_format.MessageToString(config))
    return folder


@contextmanager
def servers(stage: stages.Stage, threads: int) -> Iterator[dict[str, triton_server.Server]]:
    """Both servers, by mode."""
    with tempfile.TemporaryDirectory() as name:
        folders = {m: repository(stage.folder, Path(name) / m, batching=m, threads=threads) for m in MODES}
        with triton_server.serve(folders["on"]) as on, triton_server.serve(folders["off"]) as off:
            yield {"on": on, "off": off}


def measure(
    stage: stages.Stage, *, rounds: int, seconds: float, threads: int, num_classes: int
) -> list[dict[str, Any]]:
    """A row for each number of clients and mode: medians over the rounds, which take the modes in turns."""
    model = stage.figures["model"]
    found: dict[tuple[int, str], list[dict[str, float]]] = {}
    with servers(stage, threads) as running:
        for mode in MODES:  # not counted
            closed(Target(running[mode].grpc, model, num_classes), None, 4, 1.0, seed=SEED)
        for i in range(rounds):
            for clients in CLIENTS:
                for mode in MODES if i % 2 == 0 else reversed(MODES):
                    server = running[mode]
                    before = server.metric("nv_inference_exec_count", model)
                    one = closed(Target(server.grpc, model, num_classes), None, clients, seconds, seed=SEED + i)
                    executions = server.metric("nv_inference_exec_count", model) - before
                    one["images_per_batch"] = one["count"] / executions
                    found.setdefault((clients, mode), []).append(one)
                    print(f"round {i + 1}, {clients} clients, batching {mode}: {one}", file=sys.stderr)
    return [
        {"clients": clients, "batching": mode, "rounds": len(ones)}
        | {key: statistics.median(one[key] for one in ones) for key in ones[0]}
        for (clients, mode), ones in found.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run folder with a student, as in runs/digits")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="of one measurement (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="of the model (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "triton.json")
    asked = parser.parse_args()
    what = schema.load("triton")
    assert isinstance(what, schema.Package)
    stage = write_package(asked.run, what)
    (manifest,) = stage.folder.glob("model_repository/*/1/artifact")
    artifact = stages.read_manifest(manifest)["artifact"]
    load_before = os.getloadavg()[0]
    sizes = {"rounds": asked.rounds, "seconds": asked.seconds, "threads": asked.threads}
    result = {
        "artifact": what.artifact,
        "num_inference_steps": stage.figures["num_inference_steps"],
        "max_queue_delay_us": stage.manifest["inputs"]["package"]["package"]["max_queue_delay_us"],
        "protocol": "grpc",
        "seed": SEED,
        **sizes,
        "rows": measure(stage, num_classes=artifact["num_classes"], **sizes),
        "machine": machine() | {"load_before": load_before},
        # onnxruntime is the server's too; its numpy is another.
        "versions": stages.versions() | {"nvidia-pytriton": triton_setup.WHEEL.split("==")[1]},
    }
    asked.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result["rows"], indent=1))


if __name__ == "__main__":
    main()
