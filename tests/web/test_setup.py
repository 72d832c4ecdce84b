"""tools/web_setup.py: what cannot be had is a warning in one line, and nothing half-way is left."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from dashdeploy.packages import onnxruntime_web
from tests.scripts import load
from tests.web import browsing


@pytest.fixture
def setup() -> ModuleType:
    return load(browsing.ROOT / "tools" / "web_setup.py", "web_setup_under_test")


def test_the_tests_use_the_version_that_packages_carry(setup: ModuleType) -> None:
    assert setup.PACKAGES["onnxruntime-web"] == setup.PACKAGES["onnxruntime-node"] == onnxruntime_web.VERSION


def test_without_node_and_chromium_there_are_two_warnings(
    setup: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["web_setup.py", str(tmp_path / "web")])
    assert setup.main() == 0
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2 and all(line.startswith("No web tests: ") for line in told)
    assert "Node.js or its npm is not here" in told[0] and "there is no Chromium" in told[1]
    assert not list(tmp_path.iterdir())


def test_an_old_node_is_told(setup: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(setup.subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, "v18.3.0\n", ""))
    assert setup.missing_node() == "Node.js 20 or newer is needed, and this is v18.3.0"


def test_what_npm_says_is_told_and_the_old_folder_stays(
    setup: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "web").mkdir()
    failed = subprocess.CompletedProcess([], 1, "", "npm error network\nnpm error down")
    monkeypatch.setattr(setup.subprocess, "run", lambda *_, **__: failed)
    assert setup.install(tmp_path / "web") == "npm could not install its packages (npm error network npm error down)"
    assert [path.name for path in tmp_path.iterdir()] == ["web"]


def test_other_systems_libraries_are_not_kept(setup: ModuleType, tmp_path: Path) -> None:
    ours = f"{setup.SYSTEMS[sys.platform]}/{setup.MACHINES[setup.platform.machine()]}"
    for name in ("darwin/arm64", "win32/x64", "win32/arm64", "linux/x64", "linux/arm64"):
        (tmp_path / "napi-v6" / name).mkdir(parents=True)
    setup.keep_this_platform(tmp_path)
    assert [f"{p.parent.name}/{p.name}" for p in tmp_path.glob("napi-v6/*/*")] == [ours]


def test_a_user_who_may_not_install_is_told_how(setup: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/apt-get" if name == "apt-get" else None)
    monkeypatch.setattr(setup.os, "geteuid", lambda: 1000)
    assert setup.missing_browser() == "there is no Chromium (Debian: apt-get install chromium)"
