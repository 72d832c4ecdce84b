"""No process of ours looks up a host on the network or leaves an ID behind when it opens a runtime."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CI_VARIABLES = ("CI", "TF_BUILD", "GITHUB_ACTIONS", "JENKINS_URL", "NNCF_CI", "ORT_DISABLE_TELEMETRY")
"""Under these some libraries are quiet anyway."""
RUN = """
import torch
with open_path({folder!r}, threads=1) as model:
    x, y = torch.zeros((1, *model.denoiser.interface.image_shape)), torch.zeros(1, dtype=torch.int64)
    for _ in range(3):
        model.denoiser(x, y, y)
"""


@pytest.fixture(scope="module")
def watcher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """lookups.c, to be preloaded."""
    compiler = shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("look-ups are watched by a preloaded library, which needs Linux and a C compiler (cc)")
    library = tmp_path_factory.mktemp("watcher") / "lookups.so"
    source = Path(__file__).parent / "lookups.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-Wall", source, "-o", library, "-ldl"], check=True)
    return library


def watched(code: str, watcher: Path, folder: Path, **variables: str) -> tuple[list[str], list[str]]:
    """What a Python process of this code looks up and connects to, and the files that it leaves in its home."""
    home, seen = folder / "home", folder / "seen"
    home.mkdir()
    environment = {name: value for name, value in os.environ.items() if name not in CI_VARIABLES}
    environment |= {"HOME": str(home), "XDG_CACHE_HOME": str(home), "LOOKUPS": str(seen), "LD_PRELOAD": str(watcher)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment | variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = seen.read_text().splitlines() if seen.exists() else []
    return lines, [str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()]


def test_the_watcher_sees_what_is_looked_up_and_connected_to(watcher: Path, tmp_path: Path) -> None:
    code = """
import contextlib, socket
for host in ("telemetry.invalid", "127.0.0.1"):
    with contextlib.suppress(OSError):
        socket.getaddrinfo(host, 80)
for host in ("192.0.2.1", "127.0.0.1"):
    with contextlib.suppress(OSError), socket.socket() as s:
        s.settimeout(0.01)
        s.connect((host, 9))
"""
    seen, _ = watched(code, watcher, tmp_path)
    assert seen == ["getaddrinfo telemetry.invalid", "getaddrinfo 127.0.0.1", "connect 192.0.2.1"]


def test_it_sees_onnx_runtime_s_own_default(watcher: Path, tmp_path: Path) -> None:
    """What `dashdeploy` turns off is there: an ID in the home. A later version may have none."""
    pytest.importorskip("onnxruntime")
    code = "import onnxruntime; from dashdeploy.doctor.probes import IDENTITY; onnxruntime.InferenceSession(IDENTITY)"
    seen, left = watched(code, watcher, tmp_path, ORT_DISABLE_TELEMETRY="0")
    assert seen or left


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "opening"),
    [
        ("onnxruntime", "from dashdeploy.runtime.opening import open_path\n" + RUN),
        ("openvino", "from dashdeploy.lazy import require\nrequire('openvino', extra='openvino').Core()"),
        ("nncf", "from dashdeploy.lazy import require\nrequire('nncf', extra='openvino')"),
        ("openvino", "from dashdeploy.doctor import probes\nprobes.run('openvino')\nprobes.run('onnxruntime')"),
    ],
)
def test_no_runtime_looks_anything_up_or_leaves_a_file(
    module: str, opening: str, watcher: Path, tiny_run: Path, tmp_path: Path
) -> None:
    pytest.importorskip(module)
    code = opening.format(folder=str(tiny_run / "artifacts" / "onnx-cpu"))
    seen, left = watched(f"{code}\nimport time; time.sleep(1)", watcher, tmp_path)
    assert (seen, [path for path in left if "matplotlib" not in path]) == ([], [])
