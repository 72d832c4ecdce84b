"""The process that memory.py measures for ONNX Runtime and OpenVINO: it imports the runtime and numpy, and no torch.

python -m dashdeploy.bench.measure.memory_probe JOB, with JOB as JSON, opens one graph, runs it, and prints one JSON
object.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from dashdeploy.peak_memory import peak_mib

Feeds = dict[str, np.ndarray]


def main(job: dict[str, Any]) -> None:
    """Open, run `runs` times, and print the peak memory of this process.

    Args:
        job: backend, path of the graph, feeds (name -> [dtype, shape, value]), runs, threads, and for ONNX Runtime
            providers, for OpenVINO settings.
    """
    feeds = {name: np.full(shape, value, dtype) for name, (dtype, shape, value) in job["feeds"].items()}
    run = {"onnxruntime": _onnxruntime, "openvino": _openvino}[job["backend"]](job)
    for _ in range(job["runs"]):
        run(feeds)
    print(json.dumps({"peak_rss_mib": peak_mib()}))


def _onnxruntime(job: dict[str, Any]) -> Callable[[Feeds], object]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = job["threads"]
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(job["path"], options, providers=job["providers"])
    if session.get_providers()[0] != job["providers"][0]:
        sys.exit(f"asked for {job['providers'][0]} and got {session.get_providers()[0]}")
    return lambda feeds: session.run(None, feeds)


def _openvino(job: dict[str, Any]) -> Callable[[Feeds], object]:
    import openvino

    model = openvino.Core().compile_model(job["path"], "CPU", job["settings"])
    request = model.create_infer_request()
    return lambda feeds: request.infer(feeds, share_inputs=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
