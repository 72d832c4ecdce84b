"""The web package of the tiny run, a server of it, Node and one Chromium; what is missing is told, and skipped."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dashdeploy.packages import schema
from dashdeploy.packages.stage import write_package
from tests.web import browsing

DIST = browsing.ROOT / "exporters" / "web" / "dist"
Answers = list[dict[str, Any]]


def packaged(run: Path, *, artifact: str = "onnx-cpu", **settings: Any) -> Path:
    """The folder that `dashdeploy export RUN --to web` writes; onnxruntime-web is the one of the tests."""
    package = schema.load("web")
    assert isinstance(package, schema.Package)
    own = {"onnxruntime_web": str(browsing.modules() / "onnxruntime-web"), **settings}
    changed = {"artifact": artifact, "package": package.package.model_copy(update=own)}
    return write_package(run, package.model_copy(update=changed)).folder


@pytest.fixture(scope="session")
def package(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the tiny run; do not change it, copy it."""
    folder = tmp_path_factory.mktemp("web") / "tiny"
    shutil.copytree(tiny_run, folder)
    return packaged(folder)


@pytest.fixture(scope="session")
def newer(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with another title, and with WebGPU; do not change it."""
    folder = tmp_path_factory.mktemp("newer") / "tiny"
    shutil.copytree(tiny_run, folder)
    return packaged(folder, title="A <b>newer</b> page & more", webgpu=True)


@pytest.fixture(scope="session")
def artifact(package: Path) -> Path:
    return package / "artifact"


@pytest.fixture(scope="session")
def address(package: Path) -> Iterator[str]:
    """The package, served with the headers of cross-origin isolation."""
    with browsing.Server(package, browsing.ISOLATED) as server:
        yield server.address


@pytest.fixture(scope="session")
def chromium() -> Iterator[browsing.Chromium]:
    with browsing.opened() as browser:
        yield browser


@pytest.fixture(scope="session")
def in_node(package: Path) -> Callable[..., Answers]:
    """Opens an artifact with the package's library in Node, and makes calls of it: `tests/web/sampling.mjs`."""
    script = Path(__file__).with_name("sampling.mjs")

    def ask(artifact: Path, *calls: dict[str, Any], **options: Any) -> Answers:
        asked = json.dumps({"artifact": str(artifact), "options": options, "calls": calls})
        command = [browsing.node(), str(script), str(package), str(browsing.modules())]
        done = subprocess.run(command, input=asked, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0 and done.stderr == "", done.stderr
        answers: Answers = json.loads(done.stdout)
        return answers

    return ask
