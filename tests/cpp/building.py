"""Configuring and building with CMake, as a user does; what is missing on the machine is told."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import openvino
import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
SOURCES = ROOT / "exporters" / "cpp"
OPENVINO = Path(openvino.__file__).parent / "cmake"
WARNINGS = ("-Wall", "-Wextra", "-Wpedantic", "-Werror")


def tool(name: str) -> str:
    """The path of a program of the test environment or of the machine."""
    path = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if path is None or not Path("/usr/include/openssl/evp.h").exists():
        needed = f"the C++ runtime needs {name} and OpenSSL's headers (Debian: apt-get install g++ libssl-dev)"
        if os.environ.get("CI"):
            pytest.fail(needed)
        pytest.skip(needed)
    return path


def json_headers() -> Path:
    """The folder with nlohmann/json.hpp: the Python package's, where the system has none."""
    import nlohmann_json

    return Path(nlohmann_json.__file__).parent / "include"


def run(*command: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, **options)


def configure(source: Path, build: Path, *options: str) -> subprocess.CompletedProcess[str]:
    compiler = tool("c++")
    given = (f"-DCMAKE_CXX_COMPILER={compiler}", f"-DNLOHMANN_JSON_INCLUDE_DIR={json_headers()}", *options)
    return run(tool("cmake"), "-S", source, "-B", build, "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}", *given)


def build(source: Path, folder: Path, *options: str) -> Path:
    """A build folder with everything built in it."""
    done = configure(source, folder, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    done = run(tool("cmake"), "--build", folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def program(source: str, folder: Path, released: Path) -> Path:
    """A C++17 program of this text, without warnings, against the shared library in the build folder `released`."""
    (folder / "main.cpp").write_text(source)
    built = run(
        *(tool("c++"), "-std=c++17", *WARNINGS, f"-I{SOURCES / 'include'}"),
        *(folder / "main.cpp", "-o", folder / "main", released / "libdashdeploy.so", f"-Wl,-rpath,{released}"),
    )
    assert built.returncode == 0, built.stderr
    return folder / "main"


class WithoutPython:
    """A place to build and run in where PATH has a compiler and Ninja, and no Python."""

    def __init__(self, folder: Path) -> None:
        import cmake
        import ninja

        programs = folder / "bin"
        programs.mkdir()
        for name in ("c++", "ld", "as", "ar", "ranlib"):
            (programs / name).symlink_to(Path(tool(name)).resolve())
        (programs / "ninja").symlink_to(Path(ninja.BIN_DIR) / "ninja")
        # The real program: the one that the Python package puts on PATH is started by Python.
        self.cmake = Path(cmake.CMAKE_BIN_DIR) / "cmake"
        self.environment = {"PATH": str(programs), "HOME": str(folder)}

    def run(self, *command: str | Path, cwd: Path) -> str:
        """The standard output of a command that must succeed."""
        done = run(*command, cwd=cwd, env=self.environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout
