"""The wheel: built for real from the source archive, installed into an empty environment, used from another folder."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist and the wheel that is built from it."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    return next(dist.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment that holds the wheel; its dependencies are this environment's, by a .pth file."""
    folder = tmp_path_factory.mktemp("env").resolve() / "venv"
    venv.create(folder, with_pip=False)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(folder / "bin" / "python")]
    command = [*pip, "install", "--no-deps", "--no-index", "--quiet", str(wheel)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # This environment's own editable installation must not be what is found: everything but it is linked.
    linked = tmp_path_factory.mktemp("linked")
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if "dashdeploy" not in entry.name:
            (linked / entry.name).symlink_to(entry)
    target = sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)})
    (Path(target) / "dependencies.pth").write_text(f"{linked}\n")
    return folder


def run(installed: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [str(installed / "bin" / "dashdeploy"), *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def test_the_wheel_carries_every_recipe_target_teacher_and_network_and_nothing_else(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if tracked.returncode == 0:
        files = {name for name in tracked.stdout.split("\0") if name and (ROOT / name).is_file()}
        wanted = {name for name in files if name.startswith("dashdeploy/")}
        wanted |= {f"dashdeploy/_data/{name}" for name in files if name.startswith(("recipes/", "exporters/"))}
        assert wanted <= names, wanted - names
    assert {
        "dashdeploy/py.typed",
        "dashdeploy/bench/report/report.html.j2",
        "dashdeploy/metrics/networks/digits.safetensors",
        "dashdeploy/_data/recipes/digits.yaml",
        "dashdeploy/_data/recipes/teachers/digits/unet/diffusion_pytorch_model.safetensors",
        "dashdeploy/_data/exporters/onnx-cpu.yaml",
    } <= names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"dashdeploy"}
    assert not [name for name in names if name.endswith(".pyc")]


def test_the_source_archive_holds_what_its_own_checks_need_and_no_runs(dist: Path) -> None:
    with tarfile.open(next(dist.glob("*.tar.gz"))) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames()}
    assert {"Makefile", "constraints.txt", "LICENSE", "tests/conftest.py", "benchmarks/render.py"} <= names
    assert {"mkdocs.yml", "docs/index.md", "docs/evidence.md", "CONTRIBUTING.md"} <= names
    assert not [name for name in names if name.startswith((".venv", "runs/", "dist/", "build/", "site/"))]


def test_help_and_recipes_work_from_another_folder(installed: Path, tmp_path: Path) -> None:
    done = run(installed, "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "distill" in done.stdout
    done = run(installed, "recipes", "ls", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    paths = {row["name"]: Path(row["path"]) for row in json.loads(done.stdout)["recipes"]}
    assert "digits" in paths
    assert installed in paths["digits"].resolve().parents


def test_the_packaged_recipe_finds_the_packaged_teacher(installed: Path, tmp_path: Path) -> None:
    done = run(installed, "run", "digits", "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"the teacher is {installed}" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_every_extra_that_an_error_names_is_declared() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    call = re.compile(r"""require\(\s*[^()]*?extra=["'](\w+)["']""")
    named = {m for path in (ROOT / "dashdeploy").rglob("*.py") for m in call.findall(path.read_text())}
    assert "cpu" in named
    assert named <= set(declared)


def test_every_pin_that_the_extras_of_make_setup_need_is_there_once() -> None:
    def key(name: str) -> str:
        return re.sub(r"[-_.]+", "-", name).lower()

    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines), lines
    pins = [key(line.split("==")[0]) for line in lines]
    assert len(pins) == len(set(pins))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = re.search(r"^EXTRAS := (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert extras
    needed = list(project["dependencies"])
    for extra in extras[1].split(","):
        needed += project["optional-dependencies"][extra]
    assert {key(re.split(r"[<>=!~\[; ]", line)[0]) for line in needed} <= set(pins)
