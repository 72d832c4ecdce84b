"""Artifacts of students that predict v or x_0, or have one branch: what they hold, and that they are the student."""

from __future__ import annotations

import shutil
from pathlib import Path

import onnx
import pytest
import torch

from dashdeploy import manifest, stages
from dashdeploy.artifact import PREDICTED
from dashdeploy.cli.app import main
from dashdeploy.diffusion.sampling import Plan, ddim, plan
from dashdeploy.errors import UserError
from dashdeploy.export.export import export
from dashdeploy.recipe.load import load_text
from dashdeploy.recipe.schema import Sampling
from dashdeploy.runtime.opening import open_path
from dashdeploy.target import ParityLimits, SamplerGraph, Target
from dashdeploy.teachers import formats
from dashdeploy.training.distill import distill
from tests.limits import HARDLY_TRAINED
from tests.made import CONSISTENCY, GUIDED, SEGMENTS, save_teacher, taught_by

pytestmark = pytest.mark.slow

RUNS = {
    "v": ("v_prediction", True, (), "v_prediction"),
    "x_0": ("epsilon", False, ("student.prediction_type=sample",), "sample"),
    "guided": ("epsilon", False, GUIDED, "epsilon"),
    "segments": ("v_prediction", True, SEGMENTS, "v_prediction"),
    "consistency": ("v_prediction", True, CONSISTENCY, "sample"),
}
"""Name -> what its teacher predicts, whether that ends at zero SNR, what the recipe says, what the student predicts."""
ONE = ("guided", "segments", "consistency")
WHOLE = ("guided", "cond", "step", "sampler")


def target(**changes) -> Target:
    fields = {"name": "trial", "description": "test", "graphs": WHOLE, "gate": HARDLY_TRAINED}
    return Target(**{**fields, "parity": ParityLimits(batch_sizes=(1, 3), t_bins=2), **changes})


@pytest.fixture(scope="module")
def runs(tiny_text: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs, each with a student and its float32 artifact; do not change them."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("predictions")
    for name, (taught, zero_snr, more, _) in RUNS.items():
        teacher = save_teacher(folder / "teachers" / name, taught, zero_snr=zero_snr)
        recipe = load_text(tiny_text, name="t", overrides=[*taught_by(teacher), *more])
        distill(recipe, stages.open_run(folder, name))
        export(folder / name, target())
    return folder


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(3, *(shape or (1, 8, 8)), generator=torch.Generator().manual_seed(0))


Y = torch.tensor([0, 5, 9])


@pytest.mark.parametrize("name", RUNS)
def test_the_manifest_and_the_graphs_say_what_the_student_is(runs: Path, name: str) -> None:
    student = formats.load(runs / name / "student", role="student").interface
    read = manifest.read(stages.read_stage(runs / name / "artifacts" / "trial"))
    artifact, (_, zero_snr, _, predicts) = read.artifact, RUNS[name]
    assert artifact.prediction_type == student.prediction == predicts
    assert (artifact.branches, artifact.guidance_range) == (student.branches, student.guidance_range)
    assert artifact.grids == student.grids
    assert (artifact.sampling.solver == "consistency") == student.consistency == (name == "consistency")
    assert (artifact.betas[-1] == 1) == zero_snr
    for graph in artifact.graphs:
        path = runs / name / "artifacts" / "trial" / f"{graph}.onnx"
        (output,) = [value.name for value in onnx.load(path).graph.output]
        assert output == {"step": "x_prev", "sampler": "images"}.get(graph, PREDICTED[predicts])
    with open_path(runs / name / "artifacts" / "trial", threads=1) as model:
        ours = model.denoiser.interface
        for field in ("num_classes", "image_shape", "prediction", "branches", "guidance_range", "grids", "consistency"):
            assert getattr(ours, field) == getattr(student, field), field
        assert ours.schedule.sha256 == student.schedule.sha256


@pytest.mark.parametrize("name", RUNS)
def test_parity_is_of_each_branch_that_there_is(runs: Path, name: str) -> None:
    parity = manifest.read(stages.read_stage(runs / name / "artifacts" / "trial")).figures.parity
    assert parity.worst.relative_error < 1e-4
    branches = ["guided"] if name in ONE else ["uncond", "cond", "guided"]
    assert sorted({row.branch for row in parity.rows}) == sorted(branches)


@pytest.mark.parametrize("name", RUNS)
def test_the_artifact_predicts_what_the_student_does_for_each_images_own_w(runs: Path, name: str) -> None:
    student = formats.load(runs / name / "student", role="student")
    t, w = torch.tensor([0, 500, 999]), torch.tensor([1.0, 2.5, 4.0])
    with open_path(runs / name / "artifacts" / "trial", threads=1) as model, torch.no_grad():
        expected = student.guided(noise(), t, Y, w)
        torch.testing.assert_close(model.denoiser.guided(noise(), t, Y, w), expected, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(model.denoiser(noise(), t, Y), student(noise(), t, Y), rtol=1e-3, atol=1e-4)
        if name in ONE:
            with pytest.raises(UserError, match="this model has one branch"):
                model.denoiser.branches(noise(), t, Y)


def sampling(steps: int, **changes) -> Sampling:
    return Sampling(num_inference_steps=steps, guidance=changes.pop("guidance", 2.0), **changes)


def planned(model, steps: int, **changes) -> Plan:
    known = model.denoiser.interface
    return plan(sampling(steps, **{"solver": known.solvers[0], **changes}), 1000, grids=known.grids)


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize(("steps", "graph"), [(4, "sampler"), (2, "step")])
def test_each_graph_that_samples_gives_the_students_images_in_torch(
    runs: Path, name: str, steps: int, graph: str
) -> None:
    student = formats.load(runs / name / "student", role="student")
    with open_path(runs / name / "artifacts" / "trial", threads=1) as model:
        run = planned(model, steps, guidance=2.5)
        assert model.graph_for(run) == graph
        start = noise(*student.interface.noise_shape(run))
        drawn = model.sample(start, Y, run)
    expected = ddim(student, start, Y, run)
    assert float(expected.abs().max()) <= 1 and float(expected.std()) > 0.05
    torch.testing.assert_close(drawn, expected, rtol=0, atol=2e-3)


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("graph", ["guided", "step", "sampler"])
def test_each_graphs_file_alone_says_what_it_is_and_draws_the_same(runs: Path, name: str, graph: str) -> None:
    student = formats.load(runs / name / "student", role="student")
    with open_path(runs / name / "artifacts" / "trial" / f"{graph}.onnx", threads=1) as model:
        known = model.denoiser.interface
        for field in ("prediction", "branches", "guidance_range", "grids", "consistency"):
            assert getattr(known, field) == getattr(student.interface, field), field
        run = planned(model, 4)
        start = noise(*student.interface.noise_shape(run))
        torch.testing.assert_close(model.sample(start, Y, run), ddim(student, start, Y, run), rtol=0, atol=2e-3)
        if name in ("segments", "consistency"):
            with pytest.raises(UserError, match="guidance 5 is out of range"):
                model.sample(start, Y, planned(model, 4, guidance=5.0))
            with pytest.raises(UserError, match="noise must be"):
                model.sample(start[:, :-1], Y, run)


@pytest.mark.parametrize("name", ["v", "x_0"])
def test_steps_without_guidance_run_the_cond_graph_of_two_branches(runs: Path, name: str) -> None:
    student = formats.load(runs / name / "student", role="student")
    with open_path(runs / name / "artifacts" / "trial", threads=1) as model:
        run = planned(model, 3, guidance=1.0)
        torch.testing.assert_close(model.sample(noise(), Y, run), ddim(student, noise(), Y, run), rtol=0, atol=2e-3)
        second = planned(model, 5, solver="dpmpp_2m")
        assert model.graph_for(second) == "guided" and model.sample(noise(), Y, second).isfinite().all()


@pytest.mark.parametrize("name", ONE)
def test_one_branch_has_no_cond_graph_and_a_line_says_so(
    runs: Path, name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert sorted(p.name for p in (runs / name / "artifacts" / "trial").glob("*.onnx")) == [
        *("guided.onnx", "sampler.onnx", "step.onnx")
    ]
    shutil.copytree(runs / name, tmp_path / name)
    again = target(name="again", graphs=("guided", "cond"))
    export(tmp_path / name, again)
    said = capfd.readouterr().err
    assert "again: without the cond graph; a student of one branch has no other than the guided output" in said
    assert [p.name for p in (tmp_path / name / "artifacts" / "again").glob("*.onnx")] == ["guided.onnx"]
    # It is not made again, and without the graph nothing is said.
    before = stages.read_stage(tmp_path / name / "artifacts" / "again").manifest["key"]
    assert export(tmp_path / name, again).manifest["key"] == before
    export(tmp_path / name, target(name="bare", graphs=("guided",)))
    assert "without the cond graph" not in capfd.readouterr().err


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    assert (stopped.value.code, out) == (2, "")
    (line,) = [line for line in err.splitlines() if line.strip()]
    return line


@pytest.mark.parametrize("place", ["student", "artifacts/trial"])
@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "segments",
            ("--steps", 3),
            "this model was trained for 4 or 2 steps (timesteps 999, 749, 499, 249; 984, 484)",
        ),
        (
            "segments",
            ("--solver", "dpmpp_2m"),
            "solver dpmpp_2m: this model was not trained for it. Take ddim, and 4 or 2 steps.",
        ),
        ("segments", ("--solver", "consistency"), "this model was not trained for it. Take ddim, and 4 or 2 steps."),
        ("guided", ("--solver", "consistency"), "not trained for it. Take ddim or dpmpp_2m, and any number of steps."),
        ("v", ("--solver", "consistency"), "solver consistency: this model was not trained for it. Take ddim or dpmpp"),
        ("consistency", ("--solver", "ddim"), "solver ddim: this model was not trained for it. Take consistency, and"),
        ("segments", ("-w", 5), "guidance 5 is out of range: this model has one branch, which was trained for 1 … 4"),
        ("guided", ("-w", 0.5), "guidance 0.5 is out of range: this model has one branch"),
        ("guided", ("-w", "tag", "-w", "4.5"), "guidance 4.5 is out of range"),
    ],
)
def test_sample_refuses_what_a_student_was_not_trained_for_in_one_line(
    runs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    place: str,
    name: str,
    options: tuple[object, ...],
    message: str,
) -> None:
    line = refused(capsys, "sample", runs / name / place, "--labels", "0", *options, "-o", tmp_path / "x.png")
    assert line.startswith("error: ") and message in line
    assert not (tmp_path / "x.png").exists()


@pytest.mark.parametrize("place", ["student", "artifacts/trial"])
@pytest.mark.parametrize("options", [(), ("--steps", 2), ("-w", 1), ("-w", "tag"), ("-w", "3@0.2-0.8")])
def test_sample_draws_what_a_few_step_student_was_trained_for(
    runs: Path, tmp_path: Path, place: str, options: tuple[object, ...]
) -> None:
    command = ["sample", runs / "segments" / place, "--labels", "0-1", *options, "-o", tmp_path / "x.png"]
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in command])
    assert not stopped.value.code and (tmp_path / "x.png").is_file()


@pytest.mark.parametrize(
    ("asked", "made", "message"),
    [
        ({"num_inference_steps": 3}, {}, "3 steps at the timesteps 999, 666, 332: this model was trained for 4 or 2"),
        ({"solver": "dpmpp_2m", "num_inference_steps": 4}, {}, "solver dpmpp_2m"),
        ({"solver": "consistency", "num_inference_steps": 4}, {}, "solver consistency: this model was not trained"),
        ({"guidance": 6.0, "num_inference_steps": 4}, {}, "guidance 6 is out of range"),
        ({"num_inference_steps": 4}, {"sampler": SamplerGraph(num_inference_steps=8)}, "num_inference_steps is 8"),
    ],
)
def test_an_export_that_samples_otherwise_is_refused_and_leaves_nothing(
    runs: Path, tmp_path: Path, asked: dict, made: dict, message: str
) -> None:
    shutil.copytree(runs / "segments", tmp_path / "segments")
    with pytest.raises(UserError, match=message):
        export(tmp_path / "segments", target(name="other", **made), sampling=Sampling(**asked))
    assert [p.name for p in (tmp_path / "segments" / "artifacts").iterdir()] == ["trial"]


def test_a_sampler_graph_of_another_of_its_grids_is_made(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "segments", tmp_path / "segments")
    whole = target(name="two", graphs=("guided", "sampler"), sampler=SamplerGraph(num_inference_steps=2))
    artifact = manifest.read(export(tmp_path / "segments", whole)).artifact
    assert (artifact.sampler.timesteps, artifact.sampling.timesteps) == ((984, 484), (999, 749, 499, 249))


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        *(("v", "fp16"), ("segments", "fp16"), ("consistency", "fp16")),
        *(("x_0", "int8"), ("guided", "int8"), ("consistency", "int8")),
    ],
)
def test_half_precision_and_int8_pass_the_gate_of_their_kind(
    runs: Path, tmp_path: Path, name: str, precision: str
) -> None:
    shutil.copytree(runs / name, tmp_path / name)
    opset = {"opset": 20} if precision == "int8" else {}
    # Two steps of training leave an embedding of w that is hardly more than 0: its response is below int8's rounding.
    gap = {"gap_relative_error": 1e3, "gap_relative_error_bin": 1e3, "gap_cosine": -1.0} if name in ONE else {}
    limits = HARDLY_TRAINED.model_copy(update=gap)
    low = target(name="low", precision=precision, group_norm="instance", gate=limits, **opset)
    made = export(tmp_path / name, low)
    checks = manifest.read(made).figures
    assert [rung.failures for rung in checks.gate.rungs] == [()] * 2
    assert 1e-5 < checks.gate.rungs[-1].overall.cond_error < 0.5
    assert ("cond" in manifest.read(made).artifact.graphs) == (name not in ONE)
