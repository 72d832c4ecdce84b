"""Set up a real Triton server for the tests and benchmarks: python tools/triton_setup.py FOLDER

FOLDER gets the tritonserver of the wheel nvidia-pytriton (with only the python backend; that build has no onnxruntime
or tensorrt backend) and the packages that the server's Python uses. If this machine has no such wheel, the program says
so and does nothing.
"""

from __future__ import annotations

import ctypes.util
import hashlib
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".venv" / "triton"
WHEEL = "nvidia-pytriton==0.7.0"
WHEEL_SHA256 = "21f063ff93bb426d0c06b7a55e7eb9efcfe62c0dddd9a908e9877e18710128df"
# With numpy 2 this server's python backend returns empty outputs, without an error.
PACKAGES = ("numpy==1.26.4",)
SHARED = ("onnxruntime", "flatbuffers", "protobuf", "packaging")
"""Packages of the server's Python at the versions of constraints.txt: the runtime that its images are compared with."""
PYTHONS = ((3, 11), (3, 12))
GLIBC = (2, 35)
VERSION = f"{sys.version_info[0]}.{sys.version_info[1]}"


def missing_wheel() -> str | None:
    """Why there is no server for this machine and Python; None if there is one."""
    libc, version = platform.libc_ver()
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return f"{WHEEL} has no wheel for {sys.platform} {platform.machine()}, only for Linux on x86_64"
    if libc != "glibc" or tuple(map(int, version.split(".")[:2])) < GLIBC:
        needed = ".".join(map(str, GLIBC))
        return f"{WHEEL} needs glibc {needed} or newer, and this is {libc or 'another C library'} {version}"
    if sys.version_info[:2] not in PYTHONS:
        known = " and ".join(".".join(map(str, p)) for p in PYTHONS)
        return f"{WHEEL} needs numpy < 2, whose wheels fit Python {known}; this is {platform.python_version()}"
    if not shared_python():
        library = f"libpython{VERSION}"
        return f"its python backend needs {library}.so, which is not here (Debian: apt install {library})"
    return None


def shared_python() -> bool:
    """Whether there is a shared library of this Python's version: this Python's, or the system's."""
    name = f"libpython{VERSION}.so.1.0"
    ours = Path(sysconfig.get_config_var("LIBDIR") or "/") / name
    return ours.is_file() or ctypes.util.find_library(f"python{VERSION}") is not None


def pip(*arguments: str) -> None:
    """Run pip; its failure ends this program."""
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    subprocess.run(command, check=True)


def pinned() -> list[str]:
    """The lines of constraints.txt with the shared packages."""
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    return [match[0] for name in SHARED if (match := re.search(rf"^{name}==\S+$", text, re.MULTILINE))]


def unpack(wheel: Path, folder: Path) -> None:
    """The server, its libraries, and the python backend for this Python's version.

    Raises:
        SystemExit: it is another wheel.
    """
    actual = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if actual != WHEEL_SHA256:
        raise SystemExit(f"{wheel.name}: SHA-256 {actual}, expected {WHEEL_SHA256}. It is another wheel: not unpacked.")
    stub = f"pytriton/tritonserver/python_backend_stubs/{VERSION}/triton_python_backend_stub"
    wanted = ("pytriton/tritonserver/bin/", "pytriton/tritonserver/backends/", "nvidia_pytriton.libs/", stub)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder, [name for name in archive.namelist() if name.startswith(wanted)])
    placed = folder / "pytriton/tritonserver/backends/python/triton_python_backend_stub"
    (folder / stub).rename(placed)
    for path in (placed, folder / "pytriton/tritonserver/bin/tritonserver"):
        path.chmod(0o755)


def main() -> int:
    """0: it is there, or there is none for this machine."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    if reason := missing_wheel():
        print(f"No Triton server: {reason}. Its tests will be skipped.", file=sys.stderr)
        return 0
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".triton-") as name:
        made = Path(name) / "made"
        pip("download", "--no-deps", "--only-binary", ":all:", "--dest", name, WHEEL)
        unpack(next(Path(name).glob("*.whl")), made)
        pip("install", "--no-deps", "--only-binary", ":all:", "--target", str(made / "site"), *PACKAGES, *pinned())
        made.rename(folder)
    print(f"Triton server in {folder}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
