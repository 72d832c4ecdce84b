"""Packages of the tiny run, made once, and their client as a module."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from dashdeploy import stages
from dashdeploy.packages import schema
from dashdeploy.packages.stage import write_package

ROOT = Path(__file__).resolve().parents[2]


def load(name: str, path: Path) -> ModuleType:
    """A file as a module, which finds its neighbours as a script does."""
    sys.path.insert(0, str(path.parent))
    try:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # dataclasses look their module up
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(path.parent))


@pytest.fixture(scope="session")
def python_package(tiny_run: Path) -> stages.Stage:
    """The python backend's package, two threads; do not change it, copy it."""
    package = schema.load("triton")
    assert isinstance(package, schema.Package)
    settings = package.package.model_copy(update={"threads": 2})
    return write_package(tiny_run, package.model_copy(update={"package": settings}))


@pytest.fixture(scope="session")
def graph_package(tiny_run: Path) -> stages.Stage:
    """The onnxruntime backend's package; do not change it, copy it."""
    package = schema.load("triton-onnxruntime")
    assert isinstance(package, schema.Package)
    return write_package(tiny_run, package)


@pytest.fixture(scope="session")
def client(python_package: stages.Stage) -> Iterator[ModuleType]:
    """The package's client.py."""
    yield load("triton_client_script", python_package.folder / "client.py")
    for name in ("noise", "stream"):
        sys.modules.pop(name, None)


@pytest.fixture(scope="session")
def model_sampler(python_package: stages.Stage) -> ModuleType:
    """sampler.py, which model.py runs in the server."""
    return load("triton_sampler", python_package.folder / "model_repository" / "tiny" / "1" / "sampler.py")


@pytest.fixture(scope="session")
def model_scheduler(python_package: stages.Stage, model_sampler: ModuleType) -> ModuleType:
    """scheduler.py, which runs the sampler step by step."""
    return load("triton_scheduler", python_package.folder / "model_repository" / "tiny" / "1" / "scheduler.py")


@pytest.fixture(scope="session")
def model_reader(python_package: stages.Stage) -> ModuleType:
    """reader.py, by which sampler.py reads the manifest."""
    return load("triton_reader", python_package.folder / "model_repository" / "tiny" / "1" / "reader.py")


@pytest.fixture(scope="session")
def triton_server() -> ModuleType:
    """tools/triton_server.py, or a skip where there is no server for this machine."""
    if reason := load("triton_setup", ROOT / "tools" / "triton_setup.py").missing_wheel():
        pytest.skip(reason)
    return load("triton_server", ROOT / "tools" / "triton_server.py")
