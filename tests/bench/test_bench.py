"""The benchmark stage on a tiny run: every part of the record is measured, cached and consistent."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from dashdeploy import run
from dashdeploy.bench import samples
from dashdeploy.bench.bench import bench
from dashdeploy.bench.record import Record, load_record


@pytest.fixture(scope="module")
def measured(tiny_run: Path, tiny_recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench") / "tiny"
    shutil.copytree(tiny_run, folder)
    student = folder / "student" / run.MANIFEST
    manifest = json.loads(student.read_text())
    manifest["figures"]["teacher"] = str(folder / "teacher")
    student.write_text(json.dumps(manifest))
    bench(folder, tiny_recipe)
    return folder


@pytest.fixture(scope="module")
def record(measured: Path) -> Record:
    return load_record(measured / "bench")


def test_all_three_models_are_described(record: Record) -> None:
    assert list(record.models) == ["teacher", "student", "student-onnx-cpu"]
    assert record.models["teacher"].parameters == 45_321
    assert record.models["student"].parameters == record.models["student-onnx-cpu"].parameters == 11_797
    assert record.images_seen == 12 * 16
    # An application that runs the graph with ONNX Runtime alone does without torch.
    assert record.models["student-onnx-cpu"].peak_rss_mib < 0.6 * record.models["student"].peak_rss_mib


def test_latency_has_every_batch_size_scope_and_the_two_pass_reference(record: Record) -> None:
    found = {(r.model, r.branches, r.scope, r.batch_size) for r in record.latency}
    wanted = {(m, "batched", s, b) for m in record.models for s in ("step", "sampler") for b in (1, 2)}
    wanted |= {(m, "two-pass", s, b) for m in ("teacher", "student") for s in ("step", "sampler") for b in (1, 2)}
    assert found == wanted
    for row in record.latency:
        assert 0 < row.p50_ms <= row.p90_ms <= row.p99_ms
        assert row.images_per_s == pytest.approx(row.batch_size / row.p50_ms * 1e3)


def test_quality_covers_the_recipes_guidance_and_the_teachers_own_samples(record: Record) -> None:
    by_model = {m: {r.guidance for r in record.quality.rows if r.model == m} for m in record.models}
    assert by_model["teacher"] == by_model["student-onnx-cpu"] == {"w=1", "w=2", "TAG 1–4"}
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
    assert names == ["bench.json", "manifest.json", "report.html", "samples.npz"]


def test_a_finished_benchmark_is_not_run_again(measured: Path, tiny_recipe) -> None:
    before = load_record(measured / "bench").created
    assert bench(measured, tiny_recipe).folder == measured / "bench"
    assert load_record(measured / "bench").created == before


def test_samples_are_reused_only_for_the_same_weights_and_settings(measured: Path, tiny_recipe, record: Record) -> None:
    again = bench(measured, tiny_recipe, fresh=True)
    second = load_record(again.folder)
    assert any("and taken again" in note for note in second.notes)
    assert [r.fid.value for r in second.quality.rows] == [r.fid.value for r in record.quality.rows]
    assert record.notes == () or not any("and taken again" in note for note in record.notes)


def test_a_damaged_sample_file_is_ignored(tmp_path: Path) -> None:
    import torch

    images = torch.arange(8, dtype=torch.uint8).reshape(2, 1, 2, 2)
    samples.save(tmp_path, "k" * 64, images)
    found = samples.load([tmp_path], "k" * 64, shape=(2, 1, 2, 2))
    assert found is not None
    assert torch.equal(found, images)
    assert samples.load([tmp_path], "k" * 64, shape=(3, 1, 2, 2)) is None
    assert samples.load([tmp_path], "k" * 16 + "x" * 48, shape=(2, 1, 2, 2)) is None
    path = tmp_path / f"{'k' * 16}.npz"
    path.write_bytes(path.read_bytes()[:50])
    assert samples.load([tmp_path], "k" * 64, shape=(2, 1, 2, 2)) is None
