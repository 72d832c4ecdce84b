"""The wheel: built for real, installed into an empty environment, used from another folder."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """bin/ of an environment that holds the wheel; its dependencies are this environment's, by a .pth file."""
    folder = tmp_path_factory.mktemp("env") / "venv"
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    # This environment's own editable installation must not be what is found: only its third-party folders are linked.
    target = sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)})
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--no-deps",
        "--no-index",
        "--quiet",
        "--target",
        target,
        str(wheel),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    linked = tmp_path_factory.mktemp("linked")
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if "dashdeploy" not in entry.name:
            (linked / entry.name).symlink_to(entry)
    (Path(target) / "dependencies.pth").write_text(f"{linked}\n")
    assert python.exists()
    return folder / "bin"


def run(installed: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [str(installed / "python"), "-m", "dashdeploy", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def test_the_wheel_carries_recipes_targets_teacher_and_networks(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for wanted in (
        "dashdeploy/py.typed",
        "dashdeploy/bench/report_template.html",
        "dashdeploy/metrics/networks/digits.safetensors",
        "dashdeploy/_data/recipes/digits.yaml",
        "dashdeploy/_data/recipes/teachers/digits/unet/diffusion_pytorch_model.safetensors",
        "dashdeploy/_data/exporters/onnx-cpu.yaml",
    ):
        assert wanted in names, wanted
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/", "runs/"))]


def test_help_and_recipes_work_from_another_folder(installed: Path, tmp_path: Path) -> None:
    done = run(installed, "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "distill" in done.stdout
    done = run(installed, "recipes", "ls", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    paths = {row["name"]: Path(row["path"]) for row in json.loads(done.stdout)}
    assert "digits" in paths
    assert installed.parent in paths["digits"].parents


def test_the_packaged_recipe_finds_the_packaged_teacher(installed: Path, tmp_path: Path) -> None:
    done = run(installed, "run", "digits", "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "the teacher is " + str(installed.parent.resolve()) in done.stdout.replace(
        str(installed.parent), str(installed.parent.resolve())
    )
    assert list(tmp_path.iterdir()) == []


def test_the_console_script_is_declared(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        entry = next(name for name in archive.namelist() if name.endswith("entry_points.txt"))
        assert "dashdeploy = dashdeploy.cli.app:main" in archive.read(entry).decode()
