"""Two real processes of one launch: all train, one exports, measures and writes, and its failure ends both."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from dashdeploy import ranks, stages
from dashdeploy.bench.bench import bench
from dashdeploy.bench.record.record import load_record
from dashdeploy.errors import UserError
from dashdeploy.recipe.load import recipe_in
from tests.training.two import ROOT, launch

pytestmark = pytest.mark.slow

QUICK = (
    *("--set", "bench.latency.batch_sizes=[]", "--set", "export=[onnx-cpu]"),
    *("--set", "bench.quality={num_images: 16, guidance: [1.0], bootstrap: 0, batch_size: 16}"),
)


def test_of_two_processes_one_exports_and_measures_and_both_end(tiny_yaml: Path, tmp_path: Path) -> None:
    arguments = ("run", tiny_yaml, "--run-dir", tmp_path, *QUICK)
    done = launch(*arguments)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "tiny"
    for folder in (run / "teacher", run / "student", run / "artifacts" / "onnx-cpu", run / "bench"):
        stages.read_stage(folder)
    assert set(load_record(run / "bench").models) == {"teacher", "student", "student-onnx-cpu"}
    assert [len(re.findall(f"^{line}  ", done.stderr, re.MULTILINE)) for line in ("student", "artifact")] == [1, 1]
    assert done.stdout.splitlines()[-1] == str(run / "bench" / "report.html")
    assert done.stdout.count("report.html") == 1, "one of them prints the tables"
    assert not list(tmp_path.rglob(".work"))
    made = {path: path.stat().st_mtime_ns for path in run.rglob("manifest.json")}

    # Both have drawn a part of each set of images, which are those of one process.
    record = load_record(run / "bench")
    assert not [note for note in record.notes if "used again" in note]
    again = tmp_path / "alone" / "tiny"
    shutil.copytree(run, again, ignore=shutil.ignore_patterns("bench", ".samples"))
    alone = load_record(bench(again, recipe_in(stages.read_stage(run / "bench").manifest, source=run)).folder)
    sets = {path.name for path in (run / ".samples").glob("*.npz")}
    assert sets == {path.name for path in (again / ".samples").glob("*.npz")} and len(sets) >= 4
    for name in sets:
        two, one = (np.load(folder / ".samples" / name)["images"].astype(int) for folder in (run, again))
        assert two.shape == one.shape and np.abs(two - one).max() <= 1 and (two != one).mean() < 0.01
    for a, b in zip(record.quality.rows, alone.quality.rows, strict=True):
        assert a.fid.value == pytest.approx(b.fid.value, rel=0.01)

    # The main process alone finds that the student is another; the other one ends with it.
    done = launch(*arguments, "--set", "distill.learning_rate=0.5")
    assert done.returncode != 0
    assert "error: " in done.stderr and "student: finished with other values: distill.learning_rate" in done.stderr
    assert f'File "{ROOT}/dashdeploy' not in done.stderr, "no traceback of ours"
    assert {path: path.stat().st_mtime_ns for path in made} == made


def test_processes_that_are_not_connected_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks.state()  # this process, alone
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="started 2 processes, and 1 are connected"):
        ranks.state()


@pytest.mark.parametrize("name", ["WORLD_SIZE", "RANK", "LOCAL_RANK"])
@pytest.mark.parametrize("text", ["abc", "", "1.5"])
def test_a_launchers_variable_that_is_no_number_is_one_line(
    name: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, text)
    with pytest.raises(UserError, match=f"environment variable {name} is '{text}'.*unset {name}"):
        ranks.state()
