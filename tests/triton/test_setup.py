"""tools/triton_setup.py: where there is no server it says why, and it unpacks no other wheel than the known one."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

from tests.scripts import load

SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "triton_setup.py"


@pytest.fixture
def setup() -> ModuleType:
    return load(SCRIPT, "triton_setup_under_test")


@pytest.mark.parametrize(
    ("machine", "libc", "python", "reason"),
    [
        ("aarch64", ("glibc", "2.36"), (3, 11), "no wheel for linux aarch64"),
        ("x86_64", ("glibc", "2.31"), (3, 11), "needs glibc 2.35 or newer, and this is glibc 2.31"),
        ("x86_64", ("", ""), (3, 11), "needs glibc 2.35 or newer, and this is another C library"),
        ("x86_64", ("glibc", "2.36"), (3, 14), "wheels fit Python 3.11 and 3.12"),
    ],
)
def test_a_platform_without_the_wheel_is_told_why_and_nothing_is_installed(
    setup: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    machine: str,
    libc: tuple[str, str],
    python: tuple[int, int],
    reason: str,
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(sys, "version_info", (*python, 1))
    monkeypatch.setattr(setup.platform, "machine", lambda: machine)
    monkeypatch.setattr(setup.platform, "libc_ver", lambda: libc)
    monkeypatch.setattr(sys, "argv", ["triton_setup.py", str(tmp_path / "triton")])
    assert setup.main() == 0
    printed = capsys.readouterr().err
    assert reason in printed and "will be skipped" in printed and len(printed.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_python_without_a_shared_library_is_told_what_to_install(
    setup: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    if setup.missing_wheel():
        pytest.skip("another reason comes first here")
    monkeypatch.setattr(setup.sysconfig, "get_config_var", lambda name: "/nowhere")
    monkeypatch.setattr(setup.ctypes.util, "find_library", lambda name: None)
    assert "apt install libpython3" in setup.missing_wheel()


def test_another_wheel_of_the_same_name_is_not_unpacked(setup: ModuleType, tmp_path: Path) -> None:
    wheel = tmp_path / "nvidia_pytriton-0.7.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("pytriton/tritonserver/bin/tritonserver", "#!/bin/sh")
    with pytest.raises(SystemExit, match="It is another wheel: not unpacked"):
        setup.unpack(wheel, tmp_path / "out")
    assert not (tmp_path / "out").exists()
