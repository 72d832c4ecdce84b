"""The C++ runtime as a user gets it, built twice: shared, as its README says, and static with sanitizers."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from dashdeploy import stages
from dashdeploy.packages.schema import Package, load
from dashdeploy.packages.stage import write_package

sys.path.insert(0, str(Path(__file__).parent))

import building
from library import Library

Environment = dict[str, str]

APPLICATION = """\
cmake_minimum_required(VERSION 3.21)
project(app CXX)
set(BUILD_SHARED_LIBS OFF)
add_subdirectory({package} dashdeploy)
add_executable(app {package}/example/main.cpp)
add_executable(sample {package}/tools/sample.cpp {package}/tools/pictures.cpp)
add_executable(verdicts {tests}/verdicts.cpp)
foreach(program app sample verdicts)
  target_link_libraries(${{program}} PRIVATE dashdeploy::dashdeploy)
endforeach()
"""
"""A user's project, which builds the runtime and its programs by add_subdirectory."""


class Released(NamedTuple):
    """The emitted package, built where there is no Python."""

    folder: Path
    configured: str  # what CMake said
    place: building.WithoutPython


@pytest.fixture(scope="session")
def package(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `dashdeploy export RUN --to cpp` writes."""
    folder = tmp_path_factory.mktemp("cpp") / "tiny"
    shutil.copytree(tiny_run, folder)
    settings = load("cpp")
    assert isinstance(settings, Package)
    return write_package(folder, settings).folder


@pytest.fixture(scope="session")
def artifact(package: Path) -> Path:
    return package / "artifact"


@pytest.fixture(scope="session")
def released_without_python(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Released:
    top = tmp_path_factory.mktemp("released")
    place, folder = building.WithoutPython(top), top / "build"
    options = (
        *("-DDASHDEPLOY_BACKENDS=openvino", "-DDASHDEPLOY_WERROR=ON"),
        *(f"-DOpenVINO_DIR={building.OPENVINO}", f"-DNLOHMANN_JSON_INCLUDE_DIR={building.json_headers()}"),
    )
    configured = place.run(place.cmake, "-B", folder, "-G", "Ninja", *options, cwd=package)
    place.run(place.cmake, "--build", folder, cwd=package)
    return Released(folder, configured, place)


@pytest.fixture(scope="session")
def released(released_without_python: Released) -> Path:
    """The build folder of the emitted package: libdashdeploy.so, dashdeploy-sample, dashdeploy-example."""
    return released_without_python.folder


@pytest.fixture(scope="session")
def sanitized(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The build folder of `APPLICATION` under AddressSanitizer and UndefinedBehaviorSanitizer; leaks count too."""
    source = tmp_path_factory.mktemp("application")
    text = APPLICATION.format(package=package, tests=Path(__file__).parent)
    (source / "CMakeLists.txt").write_text(text)
    options = ("-DDASHDEPLOY_BACKENDS=openvino", f"-DOpenVINO_DIR={building.OPENVINO}", "-DDASHDEPLOY_WERROR=ON")
    sanitizers = ("-DDASHDEPLOY_SANITIZE=address,undefined", "-DCMAKE_BUILD_TYPE=Debug")
    return building.build(source, source / "build", *options, *sanitizers)


@pytest.fixture(scope="session")
def library(released: Path) -> Library:
    return Library(released / "libdashdeploy.so")


@pytest.fixture(scope="session")
def sanitizer_environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """Sanitizers on, and OpenVINO's RTLD_DEEPBIND, which they do not bear, taken off its dlopen."""
    shim = tmp_path_factory.mktemp("shim") / "no_deepbind.so"
    source = Path(__file__).parent / "no_deepbind.c"
    done = building.run(building.tool("cc"), "-shared", "-fPIC", source, "-o", shim, "-ldl")
    assert done.returncode == 0, done.stderr
    options = {"ASAN_OPTIONS": "detect_leaks=1:verify_asan_link_order=0", "UBSAN_OPTIONS": "print_stacktrace=1"}
    return {**os.environ, **options, "LD_PRELOAD": str(shim)}


@pytest.fixture(scope="session")
def verdicts_of(sanitized: Path, sanitizer_environment: Environment) -> Callable[[Sequence[Path]], list[list[str]]]:
    """Opens each folder, all in one process under the sanitizers: its status and message."""

    def ask(folders: Sequence[Path]) -> list[list[str]]:
        asked = "".join(f"{folder}\n" for folder in folders)
        done = building.run(sanitized / "verdicts", input=asked, env=sanitizer_environment)
        assert done.returncode == 0 and done.stderr == "", done.stderr
        verdicts = [line.split("\t") for line in done.stdout.splitlines()]
        assert len(verdicts) == len(folders)
        return verdicts

    return ask


def seal(folder: Path, text: bytes | None = None) -> None:
    """Write a manifest's text, and the hash that vouches for it."""
    path = folder / stages.MANIFEST
    if text is not None:
        path.write_bytes(text)
    (folder / stages.SIDECAR).write_bytes(stages.sidecar_text(path))
