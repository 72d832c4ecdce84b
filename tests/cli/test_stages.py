"""The stage commands as a user types them: results on stdout, and every bad input as one clear line."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from dashdeploy.cli.app import main
from dashdeploy.stages import SIDECAR, sidecar_text


def call(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of a command run in this process."""
    with pytest.raises(SystemExit) as stopped:
        main([str(a) for a in arguments])
    out, err = capsys.readouterr()
    code = stopped.value.code
    return (0 if code is None else int(code)), out, err


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """The one line of a command that must fail with exit code 2."""
    code, out, err = call(capsys, *arguments)
    assert code == 2, err
    assert out == ""
    lines = [line for line in err.splitlines() if line.strip()]
    assert len(lines) == 1, err
    assert lines[0].startswith("error: ")
    return lines[0]


@pytest.fixture
def run_copy(tiny_run: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiny_run, tmp_path / "runs" / "tiny")
    return tmp_path / "runs" / "tiny"


def test_a_dry_run_prints_the_resolved_recipe_and_the_plan_and_writes_nothing(
    capsys: pytest.CaptureFixture[str], tiny_yaml: Path, tmp_path: Path
) -> None:
    code, out, _ = call(
        capsys, "run", tiny_yaml, "--run-dir", tmp_path / "runs", "--set", "distill.steps=7", "--dry-run"
    )
    assert code == 0
    assert "steps: 7" in out
    assert "gamma: 5.0" in out
    assert "45,321 → 11,797 parameters" in out
    assert not (tmp_path / "runs").exists()


def test_sample_writes_a_grid_of_the_asked_classes(
    capsys: pytest.CaptureFixture[str], run_copy: Path, tmp_path: Path
) -> None:
    out = tmp_path / "grid.png"
    arguments = ("--labels", "0,3,7-9", "--columns", "3", "--steps", "2", "--scale", "1", "--threads", "1", "-o", out)
    code, said, _ = call(capsys, "sample", run_copy, *arguments)
    assert (code, said.strip()) == (0, str(out))
    first = Image.open(out).copy()
    assert first.height > first.width
    call(capsys, "sample", run_copy / "student", *arguments)
    # The same noise through torch and ONNX Runtime: the same pixels but for rounding.
    second = Image.open(out)
    assert max(abs(a - b) for a, b in zip(first.tobytes(), second.tobytes(), strict=True)) <= 1


def test_sample_draws_by_the_recipe_where_nothing_is_said(
    capsys: pytest.CaptureFixture[str], run_copy: Path, tmp_path: Path
) -> None:
    pictures = []
    for options in ((), ("--steps", "4", "-w", "2", "--solver", "ddim"), ("--steps", "50")):
        out = tmp_path / f"{len(pictures)}.png"
        assert call(capsys, "sample", run_copy, "--labels", "1", *options, "-o", out)[0] == 0
        pictures.append(out.read_bytes())
    assert pictures[0] == pictures[1] != pictures[2]


@pytest.mark.parametrize("graph", ["guided", "cond", "step", "sampler"])
def test_sample_opens_every_graph_of_an_artifact(
    capsys: pytest.CaptureFixture[str], run_copy: Path, tmp_path: Path, graph: str
) -> None:
    file = run_copy / "artifacts" / "onnx-cpu" / f"{graph}.onnx"
    assert call(capsys, "sample", file, "--labels", "1", "-o", tmp_path / "x.png")[0] == 0
    if graph == "sampler":
        said = refused(capsys, "sample", file, "--steps", "7", "-o", tmp_path / "y.png")
        assert "holds 4 steps, and 7 were asked for" in said and "Give guided.onnx or the artifact's folder" in said
        assert not (tmp_path / "y.png").exists()


def test_a_picture_that_cannot_be_written_is_one_line_and_leaves_nothing(
    capsys: pytest.CaptureFixture[str], run_copy: Path, tmp_path: Path
) -> None:
    (tmp_path / "folder.png").mkdir()
    for out in (tmp_path / "folder.png", tmp_path / "none" / "x.png"):
        assert str(out) in refused(capsys, "sample", run_copy, "--labels", "1", "-o", out)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder.png", "runs"]


@pytest.mark.parametrize("guidance", ["tag", "1", "0", "3.5"])
def test_sample_takes_any_guidance(
    capsys: pytest.CaptureFixture[str], run_copy: Path, tmp_path: Path, guidance: str
) -> None:
    arguments = ("--labels", "1", "--columns", "1", "--steps", "2", "-w", guidance, "-o", tmp_path / "g.png")
    assert call(capsys, "sample", run_copy, *arguments)[0] == 0


def test_sample_takes_a_solver_and_names_the_nearest(
    capsys: pytest.CaptureFixture[str], run_copy: Path, tmp_path: Path
) -> None:
    pictures = []
    for solver in ("ddim", "dpmpp_2m"):
        out = tmp_path / f"{solver}.png"
        arguments = ("--labels", "1", "--columns", "1", "--steps", "3", "--solver", solver, "-o", out)
        assert call(capsys, "sample", run_copy, *arguments)[0] == 0
        pictures.append(out.read_bytes())
    assert pictures[0] != pictures[1]
    said = refused(capsys, "sample", run_copy, "--solver", "dpmpp2m", "-o", tmp_path / "none.png")
    assert "unknown solver 'dpmpp2m'" in said and "Did you mean 'dpmpp_2m'?" in said
    assert not (tmp_path / "none.png").exists()


def test_export_prints_the_artifact_and_its_parity_as_json(capsys: pytest.CaptureFixture[str], run_copy: Path) -> None:
    code, out, _ = call(capsys, "export", run_copy, "--to", "onnx-cpu", "--json")
    assert code == 0
    (found,) = json.loads(out)["made"]
    assert found["figures"]["parity"]["worst"]["relative_error"] < 1e-4
    assert {check["graph"] for check in found["figures"]["sampling"]} == {"cond", "step", "sampler"}


@pytest.mark.skipif(importlib.util.find_spec("tensorrt") is not None, reason="TensorRT is installed here")
def test_trt_without_tensorrt_is_one_line_with_what_to_do(capsys: pytest.CaptureFixture[str], run_copy: Path) -> None:
    said = refused(capsys, "export", run_copy, "--trt")
    assert "pip install 'dashdeploy[tensorrt]'" in said and "--to rtx" in said
    assert not (run_copy / "artifacts" / "tensorrt").exists()


@pytest.mark.skipif(importlib.util.find_spec("tensorrt") is not None, reason="TensorRT is installed here")
def test_what_a_later_target_lacks_is_told_before_the_first_is_made(
    capsys: pytest.CaptureFixture[str], run_copy: Path
) -> None:
    shutil.rmtree(run_copy / "artifacts")
    code, out, err = call(capsys, "export", run_copy, "--to", "onnx-cpu", "--to", "tensorrt", "--to", "onnx-cup")
    assert (code, out) == (2, "")
    assert "2 problems, and nothing was started" in err and "dashdeploy[tensorrt]" in err and "'onnx-cup'" in err
    assert not (run_copy / "artifacts").exists()


def test_a_signature_that_cannot_be_made_is_told_before_the_export(
    capsys: pytest.CaptureFixture[str], run_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("cryptography", reason="pip install 'dashdeploy[sign]'")
    assert call(capsys, "keygen", tmp_path / "mine")[0] == 0
    shutil.rmtree(run_copy / "artifacts")
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.asymmetric.ed25519", None)
    said = refused(capsys, "export", run_copy, "--to", "onnx-cpu", "--sign", tmp_path / "mine.key")
    assert "pip install 'dashdeploy[sign]'" in said
    assert not (run_copy / "artifacts").exists()


def test_what_a_picture_needs_is_told_before_it_is_drawn(
    capsys: pytest.CaptureFixture[str], run_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def drawn(*_: object, **__: object) -> None:
        raise AssertionError("it was drawn")

    monkeypatch.setattr("dashdeploy.diffusion.sampling.generate", drawn)
    (tmp_path / "folder.png").mkdir()
    assert "is a folder" in refused(capsys, "sample", run_copy, "-o", tmp_path / "folder.png")
    large = ("--columns", "1000", "--scale", "64", "-o", tmp_path / "x.png")
    assert "Take fewer images, or a smaller scale" in refused(capsys, "sample", run_copy, *large)


def test_a_stage_without_a_model_is_told_as_such(
    capsys: pytest.CaptureFixture[str], run_copy: Path, tmp_path: Path
) -> None:
    assert call(capsys, "export", run_copy, "--to", "triton")[0] == 0
    said = refused(capsys, "sample", run_copy / "packages" / "triton", "-o", tmp_path / "x.png")
    assert "packages/triton: the finished stage triton, which is no model. Give a run folder" in said


def test_bench_takes_inceptions_weights_for_inception_only(capsys: pytest.CaptureFixture[str], run_copy: Path) -> None:
    assert "--weights is for --features inception" in refused(capsys, "bench", run_copy, "--weights", "x.pth")


# Bad input: one clear line each, exit code 2, nothing half-written.


def test_a_missing_teacher(capsys: pytest.CaptureFixture[str], tiny_yaml: Path, tmp_path: Path) -> None:
    tiny_yaml.write_text(tiny_yaml.read_text() + "teacher: {path: nowhere/at/all}\n")
    said = refused(capsys, "distill", tiny_yaml, "--run-dir", tmp_path / "runs")
    assert "nowhere/at/all" in said
    assert not (tmp_path / "runs").exists()


def test_a_teacher_that_was_never_trained(capsys: pytest.CaptureFixture[str], tiny_yaml: Path, tmp_path: Path) -> None:
    assert "dashdeploy teach" in refused(capsys, "distill", tiny_yaml, "--run-dir", tmp_path / "runs")


def test_a_recipe_typo(capsys: pytest.CaptureFixture[str], tiny_yaml: Path, tmp_path: Path) -> None:
    tiny_yaml.write_text(tiny_yaml.read_text().replace("distill:\n  steps", "distill:\n  stpes"))
    code, out, err = call(capsys, "run", tiny_yaml, "--run-dir", tmp_path / "runs")
    assert (code, out) == (2, "")
    assert "distill.stpes: unknown key; did you mean 'steps'?" in err
    assert "line " in err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("labels", ["10", "0,99", "3-12"])
def test_a_class_index_out_of_range(
    capsys: pytest.CaptureFixture[str], run_copy: Path, tmp_path: Path, labels: str
) -> None:
    said = refused(capsys, "sample", run_copy, "--labels", labels, "-o", tmp_path / "x.png")
    assert "out of range: this model has classes 0..9" in said
    assert not (tmp_path / "x.png").exists()


@pytest.mark.parametrize("labels", ["", "a", "-1", "1-", "2-1"])
def test_labels_that_are_no_indices(capsys: pytest.CaptureFixture[str], run_copy: Path, labels: str) -> None:
    assert "--labels" in refused(capsys, "sample", run_copy, f"--labels={labels}")


def truncate(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def test_a_truncated_student(capsys: pytest.CaptureFixture[str], run_copy: Path) -> None:
    truncate(run_copy / "student" / "unet" / "diffusion_pytorch_model.safetensors")
    assert "diffusion_pytorch_model.safetensors: damaged" in refused(capsys, "sample", run_copy / "student")
    assert "damaged" in refused(capsys, "export", run_copy)


def test_a_truncated_teacher_that_has_no_manifest(
    capsys: pytest.CaptureFixture[str], tiny_run: Path, tiny_yaml: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_run / "teacher", tmp_path / "own")
    for name in ("manifest.json", "manifest.json.sha256"):
        (tmp_path / "own" / name).unlink()
    truncate(tmp_path / "own" / "unet" / "diffusion_pytorch_model.safetensors")
    tiny_yaml.write_text(tiny_yaml.read_text() + "teacher: {path: own}\n")
    said = refused(capsys, "distill", tiny_yaml, "--run-dir", tmp_path / "runs")
    assert "not a whole safetensors file" in said


def test_a_truncated_artifact(capsys: pytest.CaptureFixture[str], run_copy: Path) -> None:
    truncate(run_copy / "artifacts" / "onnx-cpu" / "guided.onnx")
    assert "guided.onnx: damaged" in refused(capsys, "sample", run_copy)


def test_an_unwritable_run_folder(capsys: pytest.CaptureFixture[str], tiny_yaml: Path, tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    assert "cannot be written to" in refused(capsys, "run", tiny_yaml, "--run-dir", tmp_path / "runs")


def test_an_unknown_target(capsys: pytest.CaptureFixture[str], run_copy: Path) -> None:
    assert "onnx-cpu" in refused(capsys, "export", run_copy, "--to", "onnx-cup")


def test_a_teacher_of_other_classes_or_size(
    capsys: pytest.CaptureFixture[str], tiny_run: Path, tiny_yaml: Path, tmp_path: Path
) -> None:
    text = tiny_yaml.read_text() + f"teacher: {{path: {tiny_run / 'teacher'}}}\n"
    tiny_yaml.write_text(text.replace("{name: digits}", "{name: digits, image_size: 16}"))
    said = refused(capsys, "distill", tiny_yaml, "--run-dir", tmp_path / "runs")
    assert "its images are (1, 8, 8) (C, H, W) and the data's (1, 16, 16)" in said


@pytest.mark.parametrize("schedule", ["{num_train_timesteps: 500}", "{beta_end: 0.03}", "{kind: cosine}"])
def test_a_teacher_of_another_noise_schedule(
    capsys: pytest.CaptureFixture[str], tiny_run: Path, tiny_yaml: Path, tmp_path: Path, schedule: str
) -> None:
    tiny_yaml.write_text(
        tiny_yaml.read_text() + f"teacher: {{path: {tiny_run / 'teacher'}}}\nnoise_schedule: {schedule}\n"
    )
    said = refused(capsys, "distill", tiny_yaml, "--run-dir", tmp_path / "runs")
    assert "noise schedule differs" in said or "1000 timesteps and the recipe 500" in said


def test_bench_refuses_to_change_what_made_the_student(capsys: pytest.CaptureFixture[str], run_copy: Path) -> None:
    assert "bench and sampling sections only" in refused(capsys, "bench", run_copy, "--set", "distill.steps=3")


def test_bench_refuses_an_artifact_of_another_student(capsys: pytest.CaptureFixture[str], run_copy: Path) -> None:
    path = run_copy / "artifacts" / "onnx-cpu" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["inputs"]["student"] = "0" * 64
    path.write_text(json.dumps(manifest))
    path.with_name(SIDECAR).write_bytes(sidecar_text(path))
    assert "exported from another student" in refused(capsys, "bench", run_copy)


def test_a_folder_without_a_run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for command in ("export", "bench"):
        assert "holds no finished student. `dashdeploy show" in refused(capsys, command, tmp_path)


def test_the_module_runs_as_a_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dashdeploy", "--version"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert done.stdout.startswith("dashdeploy ")
