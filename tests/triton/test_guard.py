"""The guard before Triton's HTTP port: HAProxy reads its file, lets the client through, and refuses claimed shapes."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from dashdeploy import stages

pytestmark = pytest.mark.slow

INFER = "/v2/models/tiny/infer"
LABEL = {"name": "label", "shape": [1, 1], "datatype": "INT64", "data": [3]}
STEPS = {"name": "steps", "shape": [1, 1], "datatype": "INT64", "data": [7]}
SCALES = {"name": "guidance", "shape": [1, 7], "datatype": "FP32", "data": [2.0] * 7}
"""A scale for each of as many steps as the recipe does not have."""


def config(package: stages.Stage) -> str:
    return (package.folder / "kubernetes" / "haproxy.cfg").read_text()


def answer(url: str, path: str, body: bytes | None, **headers: str) -> int:
    """The HTTP status."""
    request = urllib.request.Request(f"http://{url}{path}", data=body, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as got:
            return int(got.status)
    except urllib.error.HTTPError as error:
        return error.code


def asked(*inputs: dict[str, Any]) -> bytes:
    return json.dumps({"inputs": list(inputs)}).encode()


@pytest.fixture(scope="module")
def haproxy() -> str:
    program = shutil.which("haproxy")
    if program is None:
        pytest.skip("the guard is tried with HAProxy, which is not here (Debian: apt-get install haproxy)")
    return program


@pytest.fixture(scope="module")
def guarded(
    triton_server: ModuleType, haproxy: str, python_package: stages.Stage, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Any]]:
    """The address of the guard, and the server behind it."""
    (port,) = triton_server.free_ports(1)
    with triton_server.serve(python_package.folder / "model_repository") as server:
        path = tmp_path_factory.mktemp("guard") / "haproxy.cfg"
        text = config(python_package).replace("bind :8000", f"bind 127.0.0.1:{port}")
        path.write_text(text.replace("127.0.0.1:8080", server.http))
        process = subprocess.Popen([haproxy, "-f", path, "-db"], stderr=subprocess.DEVNULL)
        try:
            for _ in range(200):
                try:
                    if answer(f"127.0.0.1:{port}", "/v2/health/ready", None) == 200:
                        break
                except OSError:
                    time.sleep(0.05)
            yield f"127.0.0.1:{port}", server
        finally:
            process.terminate()
            process.wait()


def test_both_packages_have_a_guard_that_haproxy_reads(
    haproxy: str, python_package: stages.Stage, graph_package: stages.Stage
) -> None:
    for package in (python_package, graph_package):
        done = subprocess.run(
            [haproxy, "-c", "-f", package.folder / "kubernetes" / "haproxy.cfg"], capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr


def test_the_client_s_images_pass(guarded: tuple[str, Any], client: ModuleType) -> None:
    url, server = guarded
    with_noise = {"label": np.array([3]), "noise": np.zeros((1, 8, 8), np.float32)}
    images = {}
    for address in (url, server.http):
        model = client.Model(address, "tiny", protocol="http", timeout_s=60.0)
        images[address] = [
            model.infer(model.request(3, model.guidance, seed=1, index=2)),
            model.infer(with_noise | {"guidance": np.array([2.0], np.float32)}),
        ]
        model.close()
    assert np.array_equal(images[url], images[server.http])


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        (INFER, asked(LABEL), 200),
        (INFER, asked(LABEL, STEPS, SCALES), 200),
        (INFER, asked(LABEL | {"shape": [1, 99999]}), 400),
        (INFER, asked(LABEL | {"shape": [1, 7, 7]}), 400),
        (INFER, asked(LABEL | {"shape": [1, 2**40]}), 400),
        (INFER, asked(LABEL | {"shape": [2**20, 2**20]}), 400),
        (INFER, asked(LABEL | {"shape": [1, -1]}), 400),
        (INFER, asked(LABEL | {"shape": [1e12]}), 400),
        (INFER, asked(LABEL | {"shape": [1, 1]}, LABEL | {"name": "seed", "shape": [1, 2**40]}), 400),
        (INFER, asked(LABEL | {"shape": [1, 2**40]}).replace(b"shape", b"sh\\u0061pe"), 400),
        (INFER, asked(LABEL) + b" " * 100_000, 413),
        ("/v2/repository/models/tiny/unload", b"{}", 403),
        ("/v2/systemsharedmemory/region/a/register", b"{}", 403),
        ("/v2/health/ready", None, 200),
        ("/metrics", None, 403),
    ],
)
def test_only_shapes_of_the_model_pass_and_the_server_goes_on(
    guarded: tuple[str, Any], path: str, body: bytes | None, status: int
) -> None:
    url, server = guarded
    assert answer(url, path, body) == status
    assert server.process.poll() is None and answer(server.http, INFER, asked(LABEL)) == 200
