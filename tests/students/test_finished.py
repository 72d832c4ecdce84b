"""A student that begins as a finished one: its weights, what is refused, and what its key depends on."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from dashdeploy import stages
from dashdeploy.cli.app import main
from dashdeploy.data import load_dataset
from dashdeploy.diffusion.denoiser import TorchDenoiser
from dashdeploy.errors import UserError
from dashdeploy.preflight.examine import examine
from dashdeploy.recipe.initialisation import Random, Run
from dashdeploy.recipe.load import load_text
from dashdeploy.recipe.schema import Recipe
from dashdeploy.students import finished
from dashdeploy.students.architecture import StudentDesign, design
from dashdeploy.teachers import choose, formats, guidance_embedding, networks
from dashdeploy.training.distill import distill, inputs_of
from dashdeploy.training.student import new_student, own_keys
from tests.made import GUIDED, SEGMENTS, save_teacher, taught_by


@pytest.fixture(scope="module")
def runs(tiny_text: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a v teacher and two runs: `two`, a student of two branches, and `one`, of one branch."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("finished")
    teacher = save_teacher(folder / "teacher", "v_prediction")
    for name, more in (("two", ()), ("one", GUIDED)):
        recipe = load_text(tiny_text, name="t", overrides=[*taught_by(teacher), *more])
        distill(recipe, stages.open_run(folder, name))
    return folder


def recipe_from(tiny_text: str, runs: Path, path: Path | str, *more: str) -> Recipe:
    init = f"student.init={{kind: run, path: {path}}}"
    return load_text(tiny_text, name="t", overrides=[*taught_by(runs / "teacher"), *more, init])


def designed(recipe: Recipe, runs: Path) -> tuple[StudentDesign, TorchDenoiser]:
    teacher = formats.load(runs / "teacher", role="teacher")
    own = own_keys(recipe, teacher.interface.schedule.num_train_timesteps)
    return design(recipe.student, networks.config_of(teacher.unet), own), teacher


def outputs(unet, condition) -> torch.Tensor:
    x = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return unet.eval()(x, torch.tensor([0, 300, 600, 999]), condition, return_dict=False)[0]


@pytest.mark.parametrize("more", [GUIDED, SEGMENTS], ids=["guided", "segments"])
@pytest.mark.parametrize("inside", [True, False])
def test_one_branch_from_two_is_their_conditional_branch_at_every_scale_before_it_trains(
    tiny_text: str, runs: Path, more: tuple[str, ...], inside: bool
) -> None:
    path = runs / "two" / "student" if inside else runs / "two"
    recipe = recipe_from(tiny_text, runs, path, *more)
    student, teacher = designed(recipe, runs)
    network = new_student(recipe, student, teacher, load_dataset(recipe.data))
    assert network.training
    given = formats.load(runs / "two" / "student", role="student").unet
    y = torch.tensor([0, 3, 9, 10])
    for w in (1.0, 2.5, 4.0):
        found = outputs(network, (y, torch.full((4,), w)))
        torch.testing.assert_close(found, outputs(given, y), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("name", "more"), [("two", ()), ("one", GUIDED)])
def test_a_student_of_the_same_branches_begins_as_the_finished_one(
    tiny_text: str, runs: Path, name: str, more: tuple[str, ...]
) -> None:
    recipe = recipe_from(tiny_text, runs, runs / name, *more)
    network = new_student(recipe, *designed(recipe, runs), load_dataset(recipe.data))
    given = formats.load(runs / name / "student", role="student").unet
    for weights, (key, wanted) in zip(network.state_dict().values(), given.state_dict().items(), strict=True):
        assert torch.equal(weights, wanted), key


def test_few_steps_from_one_branch_keep_its_embedding_of_w(tiny_text: str, runs: Path) -> None:
    recipe = recipe_from(tiny_text, runs, runs / "one", *SEGMENTS)
    network = new_student(recipe, *designed(recipe, runs), load_dataset(recipe.data))
    given = formats.load(runs / "one" / "student", role="student").unet.state_dict()
    names = [name for name in given if ".scale." in name]
    assert any(float(given[name].abs().max()) > 0 for name in names if name.endswith("2.weight")), "it was trained"
    assert all(torch.equal(network.state_dict()[name], given[name]) for name in names)
    assert network.config[networks.GRIDS] and network.config[guidance_embedding.KEY] == [1.0, 4.0]


def test_it_trains_and_its_manifest_names_the_start(tiny_text: str, runs: Path, tmp_path: Path) -> None:
    recipe = recipe_from(tiny_text, runs, runs / "two", *SEGMENTS)
    stage = distill(recipe, stages.open_run(tmp_path, "t"))
    began = stages.read_stage(runs / "two" / "student").sha256
    assert stage.manifest["inputs"]["init"] == began
    assert stage.figures["init"] == {"kind": "run", "path": str(runs / "two")}


@pytest.mark.parametrize(
    ("path", "more", "message"),
    [
        ("nowhere", GUIDED, r"no finished student there. Give a run folder in which `dashdeploy distill` has made one"),
        ("teacher", GUIDED, "no finished student there"),
        ("taught/teacher", GUIDED, r"it is a teacher, and not a student.*\{kind: pruned\}"),
        ("empty", GUIDED, "no finished student there"),
        (
            "two",
            (*GUIDED, "student.compression=6"),
            r"its student is another network \(block_out_channels: .* and not .*Take the size of that run",
        ),
        (
            "one",
            ("distill.objective={kind: guided, w_max: 5}", GUIDED[0]),
            r"scales \[1\.0, 4\.0\], and this one one for",
        ),
        ("one", (), r"one branch for the guidance scales \[1\.0, 4\.0\], and this one two branches"),
        ("damaged", GUIDED, "damaged or changed"),
    ],
)
def test_a_start_that_does_not_fit_is_one_line_from_distill_and_from_the_checks_before(
    tiny_text: str, runs: Path, tiny_run: Path, tmp_path: Path, path: str, more: tuple[str, ...], message: str
) -> None:
    (tmp_path / "empty" / "student").mkdir(parents=True)
    (tmp_path / "taught").mkdir()
    shutil.copytree(tiny_run / "teacher", tmp_path / "taught" / "teacher")
    shutil.copytree(runs / "two", tmp_path / "damaged")
    weights = tmp_path / "damaged" / "student" / "unet" / networks.WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-1] + b"\xff")
    place = runs / path if (runs / path).exists() else tmp_path / path
    recipe = recipe_from(tiny_text, runs, place, *more)
    folder = stages.open_run(tmp_path, "t")
    with pytest.raises(UserError, match=message) as caught:
        distill(recipe, folder)
    assert "\n" not in str(caught.value)
    assert not (folder / "student").exists()
    problems = examine(recipe, folder).problems
    assert any(str(caught.value) == str(problem) for problem in problems), problems


def test_a_start_that_predicts_something_else_is_taken_and_told_of(
    tiny_text: str, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = "which predicts v_prediction, and learns sample from there"
    for path, kind in ((runs / "two", "run"), (runs / "teacher", "pruned")):
        init = f"student.init={{kind: run, path: {path}}}" if kind == "run" else "student.init={kind: pruned}"
        changes = [*taught_by(runs / "teacher"), "student.prediction_type=sample", init]
        whose = f"the student of {path}" if kind == "run" else "its teacher"
        recipe = load_text(tiny_text, name="t", overrides=changes)
        warnings = examine(recipe, tmp_path / "t", wanted=("distill",)).warnings
        assert warnings == [f"the student begins as {whose}, {told}"]
    assert examine(recipe_from(tiny_text, runs, runs / "two"), tmp_path / "t", wanted=("distill",)).warnings == []
    file = tmp_path / "t.yaml"
    file.write_text(tiny_text)
    changes[-1] = f"student.init={{kind: run, path: {runs}/two}}"
    with pytest.raises(SystemExit) as ended:
        main(["distill", str(file), "--run-dir", str(tmp_path), *(x for c in changes for x in ("--set", c))])
    assert not ended.value.code
    assert f"warning   the student begins as the student of {runs}/two, {told}" in capsys.readouterr().err


def test_the_key_changes_with_the_students_hash_and_not_with_its_path(
    tiny_text: str, runs: Path, tmp_path: Path
) -> None:
    shutil.copytree(runs / "two", tmp_path / "copy")

    def key(path: Path) -> str:
        recipe = recipe_from(tiny_text, runs, path, *GUIDED)
        student, _ = designed(recipe, runs)
        data = load_dataset(recipe.data)
        teacher = choose.open_teacher(runs / "teacher", recipe, data)
        shared, inputs = inputs_of(recipe, data, teacher, student)
        assert "init" not in shared, "a bank does not depend on it"
        return stages.stage_key("student", recipe, inputs)

    assert key(runs / "two") == key(tmp_path / "copy") == key(tmp_path / "copy" / "student")
    other = load_text(tiny_text, name="t", overrides=[*taught_by(runs / "teacher"), "seed=5"])
    distill(other, stages.open_run(tmp_path, "other"))
    assert key(tmp_path / "other") != key(runs / "two")


def test_another_kind_of_start_has_no_hash() -> None:
    assert finished.sha256(Random()) is None
    with pytest.raises(UserError, match=r"student\.init\.path 'nowhere': no finished student there"):
        finished.sha256(Run(path="nowhere"))
