"""Memory is that of a process which runs the graph that is named, as an application of its runtime would."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dashdeploy import manifest, stages
from dashdeploy.bench.measure import memory

pytestmark = pytest.mark.slow
WATCH = """
import json, sys
from dashdeploy.bench.measure import memory_probe
memory_probe.main(json.loads(sys.argv[1]))
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


@pytest.fixture(scope="module")
def artifact(tiny_run: Path) -> manifest.Manifest:
    return manifest.read(stages.read_stage(tiny_run / "artifacts" / "onnx-cpu"))


def test_the_process_holds_the_runtime_and_numpy_and_no_torch(tiny_run: Path, artifact: manifest.Manifest) -> None:
    folder = tiny_run / "artifacts" / "onnx-cpu"
    job = memory._job(folder, artifact.artifact, "guided", batch_size=2, threads=1)
    command = [sys.executable, "-c", WATCH, json.dumps(job)]
    peak, modules = map(
        json.loads, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")[:2]
    )
    assert {"onnxruntime", "numpy"} <= set(modules)
    assert not {"torch", "pydantic", "diffusers", "openvino"} & set(modules)
    assert 20 < peak["peak_rss_mib"] < 200


@pytest.mark.parametrize("name", ["guided", "step", "sampler"])
def test_the_graph_that_is_named_runs(name: str, tiny_run: Path, artifact: manifest.Manifest, tmp_path: Path) -> None:
    folder = tiny_run / "artifacts" / "onnx-cpu"
    assert 20 < memory.peak_rss_mib(folder, artifact.artifact, name, batch_size=2, threads=1) < 200
    graph = artifact.artifact.graphs[name]
    (tmp_path / graph.file).write_bytes(b"not a graph")
    with pytest.raises(RuntimeError, match=graph.file):
        memory.peak_rss_mib(tmp_path, artifact.artifact, name, batch_size=2, threads=1)
