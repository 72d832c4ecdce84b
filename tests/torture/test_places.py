"""A full disk, and files of another user: one line, nothing half-written, and the same command works once it can."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.torture.harness import call, command
from tests.torture.places import as_nobody, can_mount, mounted, own_mounts

pytestmark = pytest.mark.slow
WRITERS: dict[str, tuple[str, ...]] = {
    "sample": ("sample", "run", "--steps=2", "-o", "full/x.png", "--scale=16"),
    "recipes cp": ("recipes", "cp", "digits", "full/x.yaml"),
    "exporters cp": ("exporters", "cp", "onnx-cpu-int8", "full/x.yaml"),
    "distill": ("distill", "mine.yaml", "--run-dir", "full"),
    "export": ("export", "full/run", "--to", "onnx-cpu"),
    "package": ("export", "full/run", "--to", "triton"),
    "bench": ("bench", "full/run"),
    "run": ("run", "mine.yaml", "--run-dir", "full"),
    "compare": ("compare", "both.yaml", "--run-dir", "full"),
}
"""Command -> its arguments; everything that it writes goes into `full`."""
QUICK = ("sample", "recipes cp", "exporters cp")
"""Those that `make test` runs too."""
COPIED = ("export", "package", "bench")
"""They write into a run folder, which lies in `full`."""
FREE_KIB = (0, 8, 64, 256)


@pytest.fixture(scope="module")
def desk(whole_run: Path, tiny_text: str) -> Iterator[Path]:
    """A folder that every user may read: a copy of the run, a recipe and a comparison."""
    folder = Path(tempfile.mkdtemp(prefix="torture-"))
    shutil.copytree(whole_run, folder / "run")
    tree = yaml.safe_load(tiny_text) | {"name": "mine", "teacher": {"path": str(folder / "run" / "teacher")}}
    del tree["teach"]
    tree["distill"] |= {"steps": 4, "checkpoint_every": 2, "teacher_bank": 32}
    tree["bench"]["latency"]["batch_sizes"] = []
    (folder / "mine.yaml").write_text(yaml.safe_dump(tree))
    variants = {name: {"label": name, "set": {"distill.objective": {"kind": name}}} for name in ("dash", "scratch")}
    both = {"name": "both", "recipe": "./mine.yaml", "seeds": [0], "variants": variants}
    (folder / "both.yaml").write_text(yaml.safe_dump(both))
    folder.chmod(0o755)
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    yield folder
    shutil.rmtree(folder)


def visible(folder: Path) -> set[str]:
    """All files, but for what is kept for the next run of the same command in folders whose names begin with a dot."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {str(path) for path in found if not any(part.startswith(".") for part in path.parts)}


def fill(file: Path, kib: int) -> None:
    """Take all that is free on a file's disk but for this much."""
    free = os.statvfs(file.parent)
    file.write_bytes(bytes(max(0, free.f_bavail * free.f_bsize - kib * 1024)))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.torture] * (name not in QUICK)) for name in WRITERS]
)
def test_a_full_disk_is_one_line_and_space_mends_it(name: str, desk: Path, tmp_path: Path) -> None:
    if why := can_mount(tmp_path):
        pytest.skip(f"no small file systems here: {why}")
    for path in desk.iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "full").mkdir()
    stage = {"export": "artifacts/onnx-cpu", "package": "packages/triton", "bench": "bench"}.get(name)

    def filled() -> None:
        own_mounts()
        refused = 0
        for kib in FREE_KIB:
            mounted(Path("full"), 1 << 16)
            if name in COPIED:
                shutil.copytree("run", "full/run")
                shutil.rmtree(f"full/run/{stage}", ignore_errors=True)
            before = visible(Path("full"))
            fill(Path("full") / ".filler", kib)
            outcome = command(WRITERS[name], cwd=Path.cwd(), limit_s=120)
            assert outcome.problem() is None, (kib, outcome)
            if outcome.code == 0:
                continue
            refused += 1
            assert "full/" in outcome.stderr or "run folder" in outcome.stderr, outcome
            left = {each for each in visible(Path("full")) - before if not whole(each)}
            assert not left, (kib, left)
            Path("full/.filler").unlink()
            again = command(WRITERS[name], cwd=Path.cwd(), limit_s=120)
            assert again.code == 0, (kib, again)
        assert refused, "nothing was too large"

    def whole(name: str) -> bool:
        """Whether a file belongs to a stage that was finished before the disk was full."""
        return any((Path("full") / parent / "manifest.json.sha256").is_file() for parent in Path(name).parents)

    outcome = call(filled, cwd=tmp_path, limit_s=300)
    assert outcome.code == 0, outcome.stderr


UNREADABLE = {
    ("sample", "run", "-o", "/tmp/never.png"): ("run/artifacts/onnx-cpu/guided.onnx", "run/artifacts", "run"),
    ("sample", "run/student", "-o", "/tmp/never.png"): ("run/student/manifest.json", "run/student/unet"),
    ("sample", "run/teacher", "-o", "/tmp/never.png"): ("run/teacher/unet/config.json", "run/teacher/scheduler"),
    ("export", "run"): ("run/student/manifest.json", "run/student", "run"),
    ("bench", "run"): ("run/student/manifest.json.sha256", "run"),
    ("run", "mine.yaml", "--dry-run"): ("mine.yaml", "run/teacher"),
    ("compare", "both.yaml", "--dry-run"): ("both.yaml", "mine.yaml"),
    ("recipes", "validate", "mine.yaml"): ("mine.yaml",),
    ("exporters", "validate", "./mine.yaml"): ("mine.yaml",),
    ("recipes", "cp", "./mine.yaml", "/tmp/never.yaml"): ("mine.yaml",),
    ("diff", "run", "run"): ("run",),
}
"""Command -> what of its inputs may not be read."""


@pytest.mark.parametrize(("args", "name"), [(args, name) for args, names in UNREADABLE.items() for name in names])
def test_what_may_not_be_read_is_one_line(args: tuple[str, ...], name: str, desk: Path) -> None:
    place = desk / name
    mode = place.stat().st_mode
    place.chmod(0)
    try:
        outcome = as_nobody(lambda: _main(args), cwd=desk)
    finally:
        place.chmod(mode)
    assert (outcome.code, outcome.problem()) == (2, None), outcome
    assert name in outcome.stderr or "permission" in outcome.stderr.lower(), outcome.stderr


READ_ONLY = [
    ("sample", "run", "-o", "run/x.png"),
    ("recipes", "cp", "digits", "run"),
    ("exporters", "cp", "onnx-cpu", "run/x.yaml"),
    ("distill", "mine.yaml", "--run-dir", "run"),
    ("run", "mine.yaml", "--run-dir", "run/deep"),
    ("compare", "both.yaml", "--run-dir", "run"),
    ("export", "run", "--fresh"),
    ("export", "run", "--to", "cpp"),
    ("bench", "run"),
]


@pytest.mark.parametrize("args", READ_ONLY, ids=" ".join)
def test_a_folder_of_another_user_is_one_line(args: tuple[str, ...], desk: Path) -> None:
    before = sorted(desk.rglob("*"))
    outcome = as_nobody(lambda: _main(args), cwd=desk)
    assert (outcome.code, outcome.problem()) == (2, None), outcome
    assert "run" in outcome.stderr
    assert sorted(p for p in desk.rglob("*") if not p.name.startswith(".torture")) == before


def _main(args: tuple[str, ...]) -> None:
    from dashdeploy.cli.app import main

    os.environ["HOME"] = "/nonexistent"
    main(args)
