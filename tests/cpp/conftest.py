"""The C++ runtime, emitted as a user gets it and built twice: as released, and with sanitizers."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from dashdeploy import stages
from dashdeploy.packages.schema import Package, load
from dashdeploy.packages.stage import write_package

sys.path.insert(0, str(Path(__file__).parent))

import building
from library import Library

ON = ("-DDASHDEPLOY_BACKENDS=openvino", f"-DOpenVINO_DIR={building.OPENVINO}", "-DDASHDEPLOY_WERROR=ON")


@pytest.fixture(scope="session")
def package(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `dashdeploy export RUN --to cpp` writes."""
    folder = tmp_path_factory.mktemp("cpp") / "tiny"
    shutil.copytree(tiny_run, folder)
    what = load("cpp")
    assert isinstance(what, Package)
    return write_package(folder, what).folder


@pytest.fixture(scope="session")
def artifact(package: Path) -> Path:
    return package / "artifact"


@pytest.fixture(scope="session")
def released(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The build folder of the emitted package."""
    return building.build(package, tmp_path_factory.mktemp("released"), *ON)


@pytest.fixture(scope="session")
def sanitized(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same under AddressSanitizer and UndefinedBehaviorSanitizer; leaks are looked for too."""
    sanitizers = ("-DDASHDEPLOY_SANITIZE=address,undefined", "-DCMAKE_BUILD_TYPE=Debug", "-DDASHDEPLOY_EXAMPLE=OFF")
    return building.build(package, tmp_path_factory.mktemp("sanitized"), *ON, *sanitizers)


@pytest.fixture(scope="session")
def library(released: Path) -> Library:
    return Library(released / "libdashdeploy.so")


@pytest.fixture(scope="session")
def sanitizer_environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Sanitizers on, and OpenVINO's RTLD_DEEPBIND, which they do not bear, taken off its dlopen."""
    shim = tmp_path_factory.mktemp("shim") / "no_deepbind.so"
    source = Path(__file__).parent / "no_deepbind.c"
    done = building.run(building.tool("cc"), "-shared", "-fPIC", source, "-o", shim, "-ldl")
    assert done.returncode == 0, done.stderr
    options = {"ASAN_OPTIONS": "detect_leaks=1:verify_asan_link_order=0", "UBSAN_OPTIONS": "print_stacktrace=1"}
    return {**os.environ, **options, "LD_PRELOAD": str(shim)}


def seal(folder: Path, text: bytes | None = None) -> None:
    """Write a manifest's text, and the hash that vouches for it."""
    path = folder / stages.MANIFEST
    if text is not None:
        path.write_bytes(text)
    (folder / stages.SIDECAR).write_bytes(stages.sidecar_text(path))
