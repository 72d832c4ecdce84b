"""The benchmark stage on a tiny run: every part of the record is measured, cached and consistent."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dashdeploy import locate, stages
from dashdeploy.bench.bench import bench
from dashdeploy.bench.measure import models, quality, samples
from dashdeploy.bench.record.record import Record, load_record
from dashdeploy.bench.report.markdown import markdown_results
from dashdeploy.data import load_dataset
from dashdeploy.diffusion.sampling import SOLVERS, plan
from dashdeploy.errors import UserError
from dashdeploy.export.export import export
from dashdeploy.recipe.load import load_recipe, load_text
from dashdeploy.recipe.schema import GuidanceInterval
from dashdeploy.runtime.model import Model
from dashdeploy.target import Target
from dashdeploy.teachers import choose

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def measured(tiny_run: Path, tiny_recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench") / "tiny"
    shutil.copytree(tiny_run, folder)
    student = folder / "student" / stages.MANIFEST
    manifest = json.loads(student.read_text())
    manifest["figures"]["teacher"] = str(folder / "teacher")
    student.write_text(json.dumps(manifest))
    student.with_name(stages.SIDECAR).write_bytes(stages.sidecar_text(student))
    export(folder, lax_int8())
    bench(folder, tiny_recipe)
    return folder


def lax_int8() -> Target:
    """An untrained student is no match for the shipped target's limits."""
    limits = {"branch_error": 10, "gap_relative_error": 100, "gap_relative_error_bin": 100, "gap_cosine": 1e-6}
    return Target.model_validate(
        {
            "name": "lax-int8",
            "description": "int8 that any network passes",
            "precision": "int8",
            "opset": 20,
            "graphs": ["guided"],
            "calibration": {"num_images": 4, "num_steps": 2, "float_layers": 0},
            "gate": {**limits, "guided_error": 10, "num_draws": 32, "t_bins": 2},
            "parity": {"batch_sizes": [3]},
        }
    )


@pytest.fixture(scope="module")
def record(measured: Path) -> Record:
    return load_record(measured / "bench")


ARTIFACT, INT8 = "student-onnx-cpu", "student-lax-int8"


def test_all_models_are_described(record: Record) -> None:
    assert list(record.models) == ["teacher", "student", INT8, ARTIFACT]
    assert record.models["teacher"].parameters == 45_321
    assert record.models["student"].parameters == record.models["student-onnx-cpu"].parameters == 11_797
    assert record.images_seen == 12 * 16
    # An application that runs the graph with ONNX Runtime needs no torch.
    assert record.models["student-onnx-cpu"].peak_rss_mib < 0.6 * record.models["student"].peak_rss_mib


def test_latency_has_every_batch_size_scope_and_the_two_pass_reference(record: Record) -> None:
    timed = {(r.model, r.branches, r.scope, r.batch_size) for r in record.latency}
    assert {(r.model, r.graph) for r in record.latency if r.scope == "sampler"} == {
        ("teacher", "guided"), ("student", "guided"), (ARTIFACT, "sampler"), (INT8, "guided")
    }  # fmt: skip
    wanted = {(m, "batched", s, b) for m in record.models for s in ("step", "sampler") for b in (1, 2)}
    wanted |= {(m, "two-pass", s, b) for m in ("teacher", "student") for s in ("step", "sampler") for b in (1, 2)}
    assert timed == wanted
    for row in record.latency:
        assert row.p50_ms > 0 and math.isnan(row.p90_ms) and math.isnan(row.p99_ms), "of three runs"
        assert row.images_per_s == pytest.approx(row.batch_size / row.p50_ms * 1e3)


def test_quality_covers_the_recipes_guidance_and_the_teachers_own_samples(record: Record) -> None:
    by_model = {m: {r.guidance for r in record.quality.rows if r.model == m} for m in record.models}
    assert by_model["teacher"] == by_model[ARTIFACT] == by_model[INT8] == {"w=1", "w=2", "TAG 1–4"}
    assert by_model["student"] == {"w=2"}
    for row in record.quality.rows:
        assert (row.fid_to_teacher is None) == (row.model == "teacher")
        assert row.fid.value > 0
        assert 0 <= row.accuracy <= 1


def test_torch_and_onnx_runtime_give_the_same_images_and_so_the_same_fid(record: Record, measured: Path) -> None:
    torch_row, onnx_row = (record.quality_at(m, "w=2") for m in ("student", "student-onnx-cpu"))
    assert torch_row is not None
    assert onnx_row is not None
    assert onnx_row.fid.value == pytest.approx(torch_row.fid.value, rel=0.02)
    with np.load(measured / "bench" / "samples.npz") as grid:
        difference = np.abs(grid["student"].astype(int) - grid["student-onnx-cpu"].astype(int))
        assert difference.max() <= 1
        assert grid["labels"].tolist() == sorted(grid["labels"].tolist())


def test_fidelity_is_the_same_for_both_runtimes_of_the_student(record: Record) -> None:
    a, b = (record.fidelity_of(m) for m in ("student", "student-onnx-cpu"))
    assert a is not None
    assert b is not None
    assert b.overall.energy_cosine == pytest.approx(a.overall.energy_cosine, abs=1e-3)
    assert len(a.bins) == 4


def test_the_report_is_one_file_beside_the_record(measured: Path) -> None:
    names = sorted(p.name for p in (measured / "bench").iterdir())
    assert names == ["bench.json", "manifest.json", "manifest.json.sha256", "report.html", "samples.npz"]
    page = (measured / "bench" / "report.html").read_text()
    assert (
        'id="guidance-gate"' in page and 'id="overview"' in page and "student (ONNX Runtime, int8): the ladder" in page
    )


def test_every_model_has_its_precision_graph_sizes_and_load_times(record: Record) -> None:
    assert {k: (m.precision, m.graph) for k, m in record.models.items()} == {
        "teacher": ("fp32", "guided"), "student": ("fp32", "guided"),
        INT8: ("int8", "guided"), ARTIFACT: ("fp32", "sampler"),
    }  # fmt: skip
    for key, model in record.models.items():
        assert 0 < model.load_ms < 5000 and 0 < model.first_call_ms < 5000, key
        assert math.isnan(model.build_s)
        assert (model.artifact_bytes is None) == (key not in (INT8, ARTIFACT))
    four, one = record.models[ARTIFACT], record.models[INT8]
    assert four.artifact_bytes and four.file_bytes and four.artifact_bytes > 3 * four.file_bytes
    assert one.artifact_bytes == one.file_bytes


def test_pairs_compare_with_the_teacher_and_with_the_student_in_torch(record: Record) -> None:
    compared = {(p.slow, p.fast) for p in record.pairs}
    assert compared == {("teacher", k) for k in record.students} | {("student", k) for k in (INT8, ARTIFACT)}
    assert len(record.pairs) == len(compared) * 4 and not any(p.refused for p in record.pairs)
    for pair in record.pairs:
        slow = record.fastest(pair.slow, pair.scope, pair.batch_size)
        fast = record.fastest(pair.fast, pair.scope, pair.batch_size)
        assert slow and fast and pair.ratio == pytest.approx(slow.p50_ms / fast.p50_ms)


def test_the_gate_and_parity_are_taken_from_the_manifests(record: Record, measured: Path) -> None:
    checks = {c.model: c for c in record.checks}
    gate = stages.read_stage(measured / "artifacts" / "lax-int8").figures["gate"]
    kept = checks[INT8].gate
    assert kept is not None and [rung.name for rung in kept.rungs] == ["ONNX fp32", "onnxruntime int8"]
    assert kept.rungs[1].bins[1].cond_error == gate["rungs"][1]["bins"][1]["cond_error"]
    assert kept.limits["gap_cosine"] == 1e-6 and checks[INT8].float_layers is not None
    parity = checks[ARTIFACT].parity
    assert parity is not None and parity.worst.relative_error < 1e-4 and checks[ARTIFACT].gate is None
    assert [check.graph for check in checks[ARTIFACT].sampling] == ["cond", "step", "sampler"]


def test_an_interval_is_tried_only_where_the_deployed_student_has_a_cond_graph(record: Record) -> None:
    assert record.deployed == INT8 and record.guidance_interval is None


def test_the_interval_saves_branches_and_an_artifact_that_does_not_run_here_is_left_out(
    measured: Path, tiny_recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "tiny"
    shutil.copytree(measured, folder)
    real = models.open_path

    def elsewhere(path: Path, *, threads: int) -> Model:
        if path.name == "lax-int8":
            raise UserError("needs a GPU")
        return real(path, threads=threads)

    monkeypatch.setattr(models, "open_path", elsewhere)
    bench(folder, tiny_recipe, interval=GuidanceInterval(w=3, low=0.4, high=0.6))
    record = load_record(folder / "bench")
    assert list(record.models) == ["teacher", "student", ARTIFACT]
    assert any("lax-int8 does not run here and is left out: needs a GPU" in note for note in record.notes)
    assert "lax-int8 does not run here" in capsys.readouterr().err
    assert INT8 in {c.model for c in record.checks}
    study = record.guidance_interval
    assert study is not None and study.model == ARTIFACT
    # Timesteps 999, 749, 499, 249: one of four lies in 400 ≤ t < 600.
    assert study.cond_only_steps == 3 and record.plans["interval"].weights == (1.0, 1.0, 3.0, 1.0)
    assert {(r.plan, r.batch_size, r.graph) for r in study.latency} == {
        (plan, b, graph) for plan, graph in (("constant", "sampler"), ("interval", "step")) for b in (1, 2)
    }
    assert [q.guidance for q in study.quality] == ["w=3", "w=3 in 0.4–0.6"]
    assert all(q.fid.value > 0 for q in study.quality)
    assert 'id="guidance-interval"' in (folder / "bench" / "report.html").read_text()


def test_a_run_of_which_no_artifact_can_be_opened_is_a_mistake(
    measured: Path, tiny_recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = models.open_path

    def elsewhere(path: Path, *, threads: int) -> Model:
        if path.parent.name == "artifacts":
            raise UserError(f"{path.name} needs a GPU")
        return real(path, threads=threads)

    monkeypatch.setattr(models, "open_path", elsewhere)
    with pytest.raises(UserError, match="onnx-cpu needs a GPU"):
        bench(measured, tiny_recipe, fresh=True)


def test_a_finished_benchmark_is_not_run_again(measured: Path, tiny_recipe) -> None:
    before = load_record(measured / "bench").created
    assert bench(measured, tiny_recipe).folder == measured / "bench"
    assert load_record(measured / "bench").created == before


def test_samples_are_reused_only_for_the_same_weights_and_settings(measured: Path, tiny_recipe, record: Record) -> None:
    again = bench(measured, tiny_recipe, fresh=True)
    second = load_record(again.folder)
    assert any("and were used again" in note for note in second.notes)
    assert [r.fid.value for r in second.quality.rows] == [r.fid.value for r in record.quality.rows]
    assert record.notes == () or not any("and were used again" in note for note in record.notes)


def test_samples_of_another_solver_have_another_key_and_the_committed_ones_are_of_ddim() -> None:
    recipe = load_recipe("digits")
    folder = locate.data_root("recipes") / "teachers" / "digits"
    sha256 = choose.open_teacher(folder, recipe, load_dataset(recipe.data)).sha256
    run = plan(recipe.sampling, 1000)
    train, _ = load_dataset(recipe.data).split(recipe.data.holdout)
    labels = quality.class_labels(recipe.bench.quality.num_images, train)
    keys = [samples.key(sha256, replace(run, solver=solver), labels=labels, seed=0) for solver in SOLVERS]
    assert len(set(keys)) == len(SOLVERS)
    assert [(folder / samples.FOLDER / f"{key[:16]}.npz").is_file() for key in keys] == [True, False, False]
    assert all(stages.undamaged(path) for path in (folder / samples.FOLDER).glob("*.npz"))


def test_a_damaged_sample_file_is_ignored_and_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    import torch

    images = torch.arange(8, dtype=torch.uint8).reshape(2, 1, 2, 2)
    samples.save(tmp_path, "k" * 64, images)
    loaded = samples.load([tmp_path], "k" * 64, shape=(2, 1, 2, 2))
    assert loaded is not None
    assert torch.equal(loaded, images)
    assert samples.load([tmp_path], "k" * 64, shape=(3, 1, 2, 2)) is None
    assert samples.load([tmp_path], "k" * 16 + "x" * 48, shape=(2, 1, 2, 2)) is None
    assert capfd.readouterr().err == "", "nothing is damaged yet"
    path = tmp_path / f"{'k' * 16}.npz"
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[60] ^= 1
    for damaged in (whole[:50], bytes(flipped)):
        path.write_bytes(damaged)
        assert samples.load([tmp_path], "k" * 64, shape=(2, 1, 2, 2)) is None
        assert f"{path}: damaged" in capfd.readouterr().err


@pytest.mark.slow
def test_without_features_there_is_no_fid_and_all_else_is_measured(
    tiny_run: Path, tiny_text: str, tmp_path: Path
) -> None:
    folder = tmp_path / "tiny"
    shutil.copytree(tiny_run, folder)
    recipe = load_text(tiny_text, name="tiny", overrides=["bench.quality.features=none"])
    stage = bench(folder, recipe)
    record = load_record(stage.folder)
    assert record.quality.features is None and record.quality.rows == ()
    assert record.latency and len(record.fidelity.rows) == 2
    assert record.quality.num_images == 40, "no more than the grids show"
    page = (stage.folder / "report.html").read_text()
    assert "FID and KID" not in page and "FID [95" not in page
    assert "FID and KID" not in markdown_results(record)


def test_other_data_than_the_students_are_refused(tiny_run: Path, tiny_recipe) -> None:
    other = tiny_recipe.model_copy(update={"data": tiny_recipe.data.model_copy(update={"image_size": 16})})
    with pytest.raises(UserError, match=r"its student was trained on other data than digits now holds .1797 images"):
        bench(tiny_run, other)
