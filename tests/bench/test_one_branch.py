"""The benchmark of a few-step student of one branch: its own timesteps, the teacher's many steps, and its response."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from dashdeploy import stages
from dashdeploy.bench.bench import bench
from dashdeploy.bench.measure import quality
from dashdeploy.bench.record.record import STUDENT, TEACHER, Record, load_record
from dashdeploy.cli.app import main
from dashdeploy.export.export import export
from dashdeploy.metrics import gap
from dashdeploy.recipe.load import load_text
from dashdeploy.recipe.schema import Recipe
from dashdeploy.runtime.opening import open_path
from dashdeploy.target import ParityLimits, Target
from dashdeploy.training.distill import distill
from tests.made import CONSISTENCY, SEGMENTS, save_teacher, taught_by

pytestmark = pytest.mark.slow

QUICK = (
    "bench.latency={batch_sizes: [1], warmup: 0, repeats: 3, sampler_repeats: 1, threads: 1}",
    "bench.quality={num_images: 20, guidance: [1.0, 2.0], bootstrap: 0, batch_size: 20}",
    "bench.fidelity={num_pairs: 100, bins: 2}",
    "bench.teacher_steps=7",
)


@pytest.fixture(scope="module")
def recipe(tiny_text: str, tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    teacher = save_teacher(tmp_path_factory.mktemp("teacher"), "v_prediction", zero_snr=True)
    return load_text(tiny_text, name="t", overrides=[*taught_by(teacher), *SEGMENTS, *QUICK])


@pytest.fixture(scope="module")
def run(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = stages.open_run(tmp_path_factory.mktemp("runs"), "t")
    distill(recipe, folder)
    graphs = ("guided", "step", "sampler")
    export(
        folder, Target(name="own", description="test", graphs=graphs, parity=ParityLimits(batch_sizes=(1, 3), t_bins=2))
    )
    bench(folder, recipe)
    return folder


@pytest.fixture(scope="module")
def record(run: Path) -> Record:
    return load_record(run / "bench")


def test_the_student_is_measured_at_its_own_timesteps_and_its_teacher_in_many_steps(recipe: Recipe, run: Path) -> None:
    with open_path(run / "student") as student, open_path(Path(recipe.teacher.path)) as teacher:
        assert quality.plan_of(recipe, student).timesteps == (999, 749, 499, 249)
        assert len(quality.plan_of(recipe, teacher).timesteps) == 7
        assert quality.plan_of(recipe, teacher, 3.0).weights == (3.0,) * 7


def test_every_part_of_the_record_is_there(record: Record, run: Path) -> None:
    assert record.settings.timesteps == (999, 749, 499, 249)
    assert {row.model for row in record.quality.rows} == {TEACHER, STUDENT, "student-own"}
    # Two passes are of two branches.
    assert {row.model for row in record.latency if row.branches == "two-pass"} == {TEACHER}
    assert {row.graph for row in record.latency if row.model == "student-own" and row.scope == "sampler"} == {"sampler"}
    assert (run / "bench" / "report.html").is_file()


def test_the_teachers_sampler_is_timed_at_its_own_steps_too(record: Record) -> None:
    assert {name: model.plan for name, model in record.models.items()} == {
        TEACHER: "teacher",
        STUDENT: "recipe",
        "student-own": "recipe",
    }
    assert (len(record.plan_of(TEACHER).timesteps), len(record.plan_of(STUDENT).timesteps)) == (7, 4)
    assert {name: model.evaluations for name, model in record.models.items()} == {
        TEACHER: 14,
        STUDENT: 4,
        "student-own": 4,
    }
    timed = {(r.plan, r.branches): r.evaluations for r in record.latency if (r.model, r.scope) == (TEACHER, "sampler")}
    assert timed == dict.fromkeys((("recipe", b) for b in ("batched", "two-pass")), 8) | dict.fromkeys(
        (("teacher", b) for b in ("batched", "two-pass")), 14
    )
    assert {row.evaluations for row in record.latency if row.scope == "step"} == {1, 2}


def test_several_runs_make_a_front_beside_the_first(
    capsys: pytest.CaptureFixture[str], run: Path, tmp_path: Path
) -> None:
    runs = [Path(shutil.copytree(run, tmp_path / name)) for name in ("a", "b")]

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stopped:
            main(["bench", *map(str, arguments)])
        out, err = capsys.readouterr()
        return int(stopped.value.code or 0), out, err

    code, out, err = call(*runs, "--batch-size", "1", "--json")
    assert code == 0, err
    points = json.loads(out)["points"]
    assert sorted((p["run"], p["model"], p["evaluations"]) for p in points) == [
        ("a", STUDENT, 4),
        ("a", "student-own", 4),
        ("a", TEACHER, 14),
        ("b", STUDENT, 4),
        ("b", "student-own", 4),
    ]
    assert sorted(path.name for path in (tmp_path / "front-a-b").iterdir()) == ["front.json", "front.md", "front.svg"]

    code, _, err = call(*runs)
    assert (code, err) == (2, "error: bench: a was not timed at batch 64; it has 1: give --batch-size\n")
    code, _, err = call(*runs, "--fresh")
    assert (code, err) == (2, "error: bench: --fresh is for one run, and 2 are given: leave it out\n")
    code, _, err = call(runs[0], "-o", tmp_path / "x")
    assert (code, err) == (2, "error: bench: --output is for several runs, and 1 is given: leave it out\n")
    shutil.rmtree(runs[1] / "bench")
    code, _, err = call(*runs, "--batch-size", "1")
    assert (code, err) == (2, f"error: {runs[1]}: a run without a benchmark. Run `dashdeploy bench {runs[1]}` first.\n")


def test_its_fidelity_is_that_of_its_response_at_the_recipes_scale(record: Record, recipe: Recipe, run: Path) -> None:
    rows = {row.model: row.overall for row in record.fidelity.rows}
    assert rows["student-own"].cond_error == pytest.approx(rows[STUDENT].cond_error, rel=1e-3)
    probes = gap.Probes(torch.randn(8, 1, 8, 8), torch.arange(8) * 100, torch.arange(8))
    asked: list[torch.Tensor] = []
    with open_path(run / "student") as student:
        guided = student.denoiser.guided

        def noted(x: torch.Tensor, t: torch.Tensor, y: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
            asked.append(w)
            return guided(x, t, y, w)

        student.denoiser.guided = noted
        gap.predict(student.denoiser, probes, batch_size=8, w=gap.scales(2.0, probes, 1000))
    assert {float(w) for each in asked for w in each} == {1.0, 2.0}


def test_a_consistency_student_is_measured_by_its_solver_and_its_teacher_by_ddim(
    recipe: Recipe, tiny_text: str, tmp_path: Path
) -> None:
    overrides = [*taught_by(Path(recipe.teacher.path)), *CONSISTENCY, *QUICK]
    fresh, folder = load_text(tiny_text, name="t", overrides=overrides), stages.open_run(tmp_path, "t")
    distill(fresh, folder)
    limits = ParityLimits(batch_sizes=(1, 3), t_bins=2)
    export(folder, Target(name="own", description="test", graphs=("guided", "step", "sampler"), parity=limits))
    bench(folder, fresh)
    record = load_record(folder / "bench")
    assert record.solver == "consistency" and record.settings.timesteps == (999, 749, 499, 249)
    timed = {(row.model, row.graph) for row in record.latency if row.scope == "sampler"}
    assert timed == {(TEACHER, "guided"), (STUDENT, "guided"), ("student-own", "sampler")}
    with open_path(Path(fresh.teacher.path)) as teacher:
        run = quality.plan_of(fresh, teacher)
        assert (run.solver, len(run.timesteps)) == ("ddim", 7)
