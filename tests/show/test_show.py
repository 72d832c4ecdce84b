"""`dashdeploy show` and `ls` on a run, its stages, and what a run can become."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dashdeploy import stages
from dashdeploy.cli.app import main
from dashdeploy.show.run import read_run


def call(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of a command run in this process."""
    with pytest.raises(SystemExit) as stopped:
        main([str(a) for a in arguments])
    return int(stopped.value.code or 0), *capsys.readouterr()


def change(stage: Path, key: str, value: Any) -> None:
    """Another value of a stage's inputs, vouched for."""
    path = stage / stages.MANIFEST
    manifest = json.loads(path.read_text())
    manifest["inputs"][key] = value
    path.write_text(json.dumps(manifest))
    path.with_name(stages.SIDECAR).write_bytes(stages.sidecar_text(path))


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path) -> Path:
    """A run without a benchmark."""
    shutil.copytree(tiny_run, tmp_path / "runs" / "tiny")
    return tmp_path / "runs" / "tiny"


def states(folder: Path) -> dict[str, str]:
    return {stage.name: stage.state for stage in read_run(folder).stages}


def test_a_run_whose_stages_belong_together(capsys: pytest.CaptureFixture[str], run: Path) -> None:
    code, out, err = call(capsys, "show", run)
    assert (code, err) == (0, "")
    assert "recipe tiny, seed 3" in out and "11,797 parameters, 3.8× smaller" in out and "parity" in out
    assert f"next     dashdeploy bench {run}" in out
    content = json.loads(call(capsys, "show", run, "--json")[1])
    assert [(stage["name"], stage["state"]) for stage in content["stages"]] == [
        ("teacher", "finished"),
        ("student", "finished"),
        ("artifacts/onnx-cpu", "finished"),
    ]
    student = content["stages"][1]
    assert student["figures"]["parameters"] == 11797 and student["size_bytes"] > 60_000
    assert content["next"] == f"dashdeploy bench {run}"


def test_another_student_makes_its_artifacts_stale(capsys: pytest.CaptureFixture[str], run: Path) -> None:
    change(run / "artifacts" / "onnx-cpu", "student", "0" * 64)
    state = read_run(run)
    assert states(run)["artifacts/onnx-cpu"] == "stale"
    assert state.next == f"dashdeploy export {run} --to onnx-cpu"
    assert "artifacts/onnx-cpu: stale: made from another student" in call(capsys, "show", run)[1]
    assert "artifacts/onnx-cpu stale" in call(capsys, "ls", run.parent)[1]


def test_another_teacher_makes_the_student_stale(run: Path) -> None:
    change(run / "student", "teacher", "0" * 64)
    state = read_run(run)
    assert states(run)["student"] == "stale"
    assert f"{run / 'teacher'} is another teacher" in state.of("student")[0].why
    assert state.next == f"dashdeploy distill RECIPE --run-dir {run.parent} --fresh"


def test_a_damaged_file_is_unusable_for_show_and_costs_ls_no_reading(run: Path) -> None:
    path = run / "student" / "unet" / "diffusion_pytorch_model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    damaged = read_run(run).of("student")[0]
    assert damaged.state == "unusable" and "damaged or changed" in damaged.why
    assert read_run(run, whole=False).of("student")[0].state == "finished"


def test_an_interrupted_training_and_one_that_goes_on(run: Path) -> None:
    shutil.rmtree(run / "student")
    shutil.rmtree(run / "artifacts")
    with stages.exclusive(run / "student") as work:
        (work / "metrics.jsonl").write_text('{"step": 4}\n{"step": 8}\n{"st')
        going_on = read_run(run)
    interrupted = read_run(run)
    assert (going_on.of("student")[0].state, going_on.next) == ("at work", "")
    assert interrupted.of("student")[0].why == "interrupted after step 8"
    assert interrupted.next == f"dashdeploy distill RECIPE --run-dir {run.parent}"


def test_the_next_command_of_a_run_of_a_shipped_recipe_names_it(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.rmtree(run / "student")
    shutil.rmtree(run / "artifacts")
    path = run / "teacher" / stages.MANIFEST
    manifest = json.loads(path.read_text())
    manifest["recipe"]["name"] = "digits"
    path.write_text(json.dumps(manifest))
    path.with_name(stages.SIDECAR).write_bytes(stages.sidecar_text(path))
    assert read_run(Path("runs/tiny")).next == "dashdeploy run digits"


def test_a_run_of_another_format_is_shown_all_the_same(capsys: pytest.CaptureFixture[str], run: Path) -> None:
    path = run / "teacher" / stages.MANIFEST
    path.write_text(path.read_text().replace(f'"format": {stages.FORMAT}', '"format": 1'))
    code, out, _ = call(capsys, "show", run)
    assert code == 0 and f"format 1; this version reads {stages.FORMAT}" in out
    assert f"dashdeploy teach RECIPE --run-dir {run.parent} --fresh" in out


def test_an_artifact(capsys: pytest.CaptureFixture[str], run: Path) -> None:
    artifact = run / "artifacts" / "onnx-cpu"
    code, out, _ = call(capsys, "show", artifact)
    assert code == 0
    assert "11,797 parameters" in out and "4 steps of ddim" in out and "every SHA-256 is right" in out
    assert "noise (batch, 1, 8, 8) float32, y (batch) int64, w (batch, 4) float32" in out
    content = json.loads(call(capsys, "show", artifact, "--json")[1])
    assert content["artifact"]["backend"] == "onnxruntime" and len(content["files"]) == 4
    with (artifact / "guided.onnx").open("ab") as file:
        file.write(b"\0")
    code, out, err = call(capsys, "show", artifact)
    assert (code, out) == (2, "") and "guided.onnx: damaged or changed" in err


def test_a_file_of_an_artifact(capsys: pytest.CaptureFixture[str], run: Path, tmp_path: Path) -> None:
    code, out, _ = call(capsys, "show", run / "artifacts" / "onnx-cpu" / "sampler.onnx")
    assert code == 0 and "sampler" in out and "noise (batch, 1, 8, 8)" in out and "11,797 parameters" in out
    (tmp_path / "other.onnx").write_bytes(b"not a model")
    code, _, err = call(capsys, "show", tmp_path / "other.onnx")
    assert code == 2 and "other.onnx" in err and err.count("\n") == 1


def test_a_teacher_with_a_manifest_and_one_of_diffusers(
    capsys: pytest.CaptureFixture[str], run: Path, tmp_path: Path
) -> None:
    code, out, _ = call(capsys, "show", run / "teacher")
    assert code == 0 and "45,321" in out and "11 rows: 10 classes and the null class" in out and "λ is here" in out
    assert "12 steps" in out
    shutil.copytree(run / "teacher", tmp_path / "plain", ignore=shutil.ignore_patterns("manifest*", "*weights*"))
    content = json.loads(call(capsys, "show", tmp_path / "plain", "--json")[1])
    assert (content["parameters"], content["label_rows"], content["lambda"]) == (45321, 11, False)
    assert content["network"] == "UNet2DModel" and content["prediction_type"] == "epsilon"
    (tmp_path / "plain" / "unet" / "config.json").write_text("[1]")
    code, _, err = call(capsys, "show", tmp_path / "plain")
    assert code == 2 and "expected names and values in braces" in err


def test_ls_lists_runs_and_those_of_comparisons(capsys: pytest.CaptureFixture[str], run: Path) -> None:
    shutil.copytree(run, run.parent / "ablation" / "dash" / "seed0")
    (run.parent / "empty").mkdir()
    code, out, _ = call(capsys, "ls", run.parent)
    assert code == 0 and out.startswith("2 runs in")
    assert [line.split()[0] for line in out.splitlines()[2:]] == ["ablation/dash/seed0", "tiny"]
    assert "teacher, student, 1 artifact" in out and "11,797" in out
    rows = json.loads(call(capsys, "ls", run.parent, "--json")[1])["runs"]
    assert [row["folder"] for row in rows] == [str(run.parent / "ablation/dash/seed0"), str(run)]
    assert call(capsys, "ls", run.parent / "empty")[:2] == (0, f"no runs in {run.parent / 'empty'}\n")


def test_a_benchmark_and_a_run_with_one(capsys: pytest.CaptureFixture[str], measured: Path) -> None:
    tables = call(capsys, "show", measured / "bench")[1]
    assert "Guidance fidelity" in tables and tables.splitlines()[-1] == str(measured / "bench" / "report.html")
    assert call(capsys, "show", measured / "bench" / "bench.json")[1] == tables
    content = json.loads(call(capsys, "show", measured / "bench", "--json")[1])
    assert content == json.loads((measured / "bench" / "bench.json").read_text())
    state = read_run(measured)
    assert state.of("bench")[0].state == "finished" and state.of("bench")[0].figures["fid"] > 0
    assert state.next == f"dashdeploy sample {measured} -o samples.png"
    assert "at w=2" in call(capsys, "ls", measured.parent)[1]


def test_a_benchmark_is_stale_after_another_export(measured: Path) -> None:
    change(measured / "bench", "artifacts", {"onnx-cpu": "0" * 64})
    bench = read_run(measured).of("bench")[0]
    assert (bench.state, bench.why) == ("stale", "exported since then: onnx-cpu")
    change(measured / "bench", "artifacts", {**_hashes(measured), "gone": "0" * 64})
    assert read_run(measured).of("bench")[0].why == "no longer there: gone"


def _hashes(run: Path) -> dict[str, str]:
    return {path.name: stages.read_stage(path).sha256 for path in (run / "artifacts").iterdir() if path.is_dir()}


@pytest.fixture
def measured(run: Path, tiny_recipe: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a benchmark, which is made once."""
    kept = tmp_path_factory.getbasetemp() / "show-bench"
    if not kept.is_dir():
        from dashdeploy.bench.bench import bench

        bench(run, tiny_recipe)
        shutil.copytree(run / "bench", kept)
    shutil.copytree(kept, run / "bench", dirs_exist_ok=True)
    return run


def test_runs_and_artifacts_are_shown_without_torch(run: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom dashdeploy.show.look import look\n"
        "from dashdeploy.show.list import listing\n"
        f"run = Path({str(run)!r})\n"
        "for path in (run, run / 'artifacts/onnx-cpu', run / 'teacher'): look(path)\n"
        "listing(run.parent)\n"
        "print([name for name in ('torch', 'numpy', 'onnx', 'diffusers') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_the_labels_of_a_teacher_are_measured_on_a_recipe_s_data(
    capsys: pytest.CaptureFixture[str], run: Path, tmp_path: Path
) -> None:
    teacher = Path(__file__).resolve().parents[2] / "recipes" / "teachers" / "digits"
    code, out, _ = call(capsys, "show", teacher, "--recipe", "digits")
    assert code == 0 and "right: loss on" in out
    (tmp_path / "order.yaml").write_text(
        "name: order\nextends: digits\nteacher: {labels: [1, 0, 2, 3, 4, 5, 6, 7, 8, 9]}\n"
    )
    code, _, err = call(capsys, "show", teacher, "--recipe", tmp_path / "order.yaml")
    assert code == 2 and "its classes are in another order than the data's" in err  # its manifest names them
    for part in ("unet", "scheduler"):
        shutil.copytree(teacher / part, tmp_path / "nameless" / part)
    shown = call(capsys, "show", tmp_path / "nameless", "--recipe", tmp_path / "order.yaml", "--json")[1]
    labels = json.loads(shown)["labels"]
    assert labels["state"] == "wrong" and labels["measured"]["num_draws"] > 0
    code, _, err = call(capsys, "show", run, "--recipe", "digits")
    assert code == 2 and "not a teacher's folder" in err
