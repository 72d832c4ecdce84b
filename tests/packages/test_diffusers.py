"""The diffusers package: its README's own loop, run in plain diffusers, draws the images that dashdeploy draws."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from dashdeploy import stages
from dashdeploy.cli.app import main
from dashdeploy.data import load_dataset
from dashdeploy.diffusion.sampling import plan
from dashdeploy.errors import UserError
from dashdeploy.packages import schema
from dashdeploy.packages.stage import carry_out
from dashdeploy.recipe.load import load_text, recipe_in
from dashdeploy.runtime.opening import open_path
from dashdeploy.show.run import read_run
from dashdeploy.teachers import choose
from dashdeploy.training.distill import distill
from tests.made import CONSISTENCY, GUIDED, SEGMENTS, save_teacher, taught_by

DIT = ("student.compression=null", "student.dit={num_layers: 2, num_attention_heads: 2, attention_head_dim: 8}")
THREE = (*SEGMENTS, "distill.objective.steps=[3]", "sampling.num_inference_steps=3")
KINDS: dict[str, tuple[str, ...]] = {
    "two-branches": (),
    "leading": (*GUIDED, "sampling.timestep_spacing=leading", "sampling.clip_sample=false"),
    "few": SEGMENTS,
    "few-unclipped": (*SEGMENTS, "sampling.clip_sample=false"),
    "dit": (*SEGMENTS, *DIT),
    "three": THREE,
    "three-unclipped": (*THREE, "sampling.clip_sample=false"),
    "zero-snr": SEGMENTS,
}
"""Runs by name: what they are beside two steps of training."""
PLANS = {"two-branches": [4], "leading": [4], "three": [3], "three-unclipped": [3]}
"""Numbers of steps that the README has a line for; of the others 4 and 2."""
W = 2.5


@pytest.fixture(scope="module")
def runs(tiny_text: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("plain")
    teachers = {zero: save_teacher(folder / f"teacher{zero}", "v_prediction", zero_snr=zero) for zero in (False, True)}
    for name, more in KINDS.items():
        taught = taught_by(teachers[name == "zero-snr"])
        # So fast that the embedding of w says something after two steps.
        recipe = load_text(tiny_text, name="t", overrides=[*taught, "distill.learning_rate=0.05", *more])
        distill(recipe, stages.open_run(folder, name))
    return folder


def exported(run: Path, w: float | None = W) -> stages.Stage:
    return carry_out(run, schema.load("diffusers"), guidance=w)


def loop_of(folder: Path, noise: torch.Tensor, *, line: str | None = None) -> torch.Tensor:
    """What the README's loop draws from this noise; line: in place of its first that sets timesteps."""
    code = re.search(r"```python\n(.+?)```", (folder / "README.md").read_text(), re.DOTALL)[1]
    assert "dashdeploy" not in code
    code = code.replace('folder = "."', f"folder = {str(folder)!r}")
    code = re.sub(r"x = torch\.randn\(.+\)", "x = noise", code)
    if line is not None:
        code = re.sub(r"scheduler\.set_timesteps.+", line, code)
    values = {"noise": noise.clone()}
    exec(code, values)
    return values["x"]


def ours(run: Path, noise: torch.Tensor, steps: int, w: float) -> torch.Tensor:
    with open_path(run / "student") as model:
        interface = model.denoiser.interface
        sampling = model.sampling.model_copy(update={"guidance": w, "num_inference_steps": steps})
        wanted = plan(sampling, interface.schedule.num_train_timesteps, grids=interface.grids)
        return model.sample(noise, torch.arange(len(noise)), wanted)


@pytest.mark.parametrize("name", KINDS)
def test_the_loop_of_the_readme_draws_our_images(runs: Path, name: str) -> None:
    two = name == "two-branches"
    stage = exported(runs / name, None if two else W)
    noise = torch.randn(10, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    text = (stage.folder / "README.md").read_text()
    counts = PLANS.get(name, [4, 2])
    lines = dict(re.findall(r"\| (\d+) \| `(.+)` \|", text))
    assert list(map(int, lines)) == (counts if SEGMENTS[2] in KINDS[name] else []), text
    w = 2.0 if two else W  # a student of two branches: the recipe's
    for count in counts:
        found = loop_of(stage.folder, noise, line=lines.get(str(count)))
        torch.testing.assert_close(found, ours(runs / name, noise, count, w), rtol=0, atol=1e-5)
    torch.testing.assert_close(loop_of(stage.folder, noise), ours(runs / name, noise, counts[0], w), rtol=0, atol=1e-5)
    assert (found - ours(runs / name, noise, counts[-1], 1.0)).abs().max() > 1e-4, "w must count here"
    assert (stage.folder / "labels.txt").read_text() == "".join(f"{i}\n" for i in range(10))


def test_another_scale_is_another_folder_and_the_same_is_not_made_again(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "few", tmp_path / "few")
    first = exported(tmp_path / "few")
    made = first.folder.stat().st_ino
    assert exported(tmp_path / "few").folder.stat().st_ino == made
    assert exported(tmp_path / "few", 1.0).sha256 != first.sha256
    states = {stage.name: (stage.state, stage.text) for stage in read_run(tmp_path / "few").stages}
    assert states["packages/diffusers"][0] == "finished" and "w = 1 folded in" in states["packages/diffusers"][1]
    shutil.rmtree(tmp_path / "few" / "student")
    shutil.copytree(runs / "few-unclipped" / "student", tmp_path / "few" / "student")
    state = read_run(tmp_path / "few")
    assert [s.why for s in state.stages if s.name == "packages/diffusers"] == ["made from another student"]
    assert state.next.endswith("--to diffusers -w 1")


@pytest.mark.parametrize(
    ("name", "given", "told"),
    [
        (
            "few",
            [],
            "folded into it. Give it to `dashdeploy export` by -w, from 1 to 4.",
        ),
        ("few", ["-w", "5"], "-w 5 is out of range: the student has one branch, which was trained for 1 … 4"),
        ("few", ["-w", "tag"], "one guidance scale is folded in for all timesteps, and -w asks for another at each"),
        ("few", ["-w", "2@0.2-0.8"], "one guidance scale is folded in for all timesteps"),
        ("few", ["-w", "2", "--to", "onnx-cpu"], "-w: a guidance scale is folded in only by --to diffusers; onnx-cpu"),
        ("two-branches", ["-w", "2"], "two branches, and diffusers guides it at any scale by classifier-free guidance"),
    ],
)
def test_a_scale_that_does_not_fit_is_one_line_and_nothing_is_written(
    runs: Path, tmp_path: Path, name: str, given: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(runs / name / "student", tmp_path / name / "student")
    with pytest.raises(SystemExit) as ended:
        main(["export", str(tmp_path / name), "--to", "diffusers", *given])
    out, err = capsys.readouterr()
    assert (ended.value.code, out) == (2, "") and told in err and err.count("\n") == 1
    assert [path.name for path in (tmp_path / name).iterdir()] == ["student"]


def test_the_command_says_where_it_is_and_it_is_no_model_here(
    runs: Path, tiny_text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(runs / "few" / "student", tmp_path / "few" / "student")
    with pytest.raises(SystemExit) as ended:
        main(["export", str(tmp_path / "few"), "--to", "diffusers", "-w", "2", "--json"])
    (made,) = json.loads(capsys.readouterr().out)["made"]
    assert not ended.value.code and made["figures"]["guidance"] == 2
    # Here it would be guided once more, by a null class that a student of one branch has not learnt.
    with pytest.raises(UserError, match=r"a package for diffusers, which its README\.md says how to use"):
        open_path(made["folder"])
    recipe = load_text(tiny_text, name="t", overrides=taught_by(made["folder"]))
    with pytest.raises(UserError, match="one branch, with the guidance scale folded in, and a teacher has two"):
        choose.open_teacher(Path(made["folder"]), recipe, load_dataset(recipe.data))


def test_a_consistency_student_is_refused(runs: Path, tiny_text: str, tmp_path: Path) -> None:
    recipe = load_text(tiny_text, name="t", overrides=[*taught_by(runs / "teacherTrue"), *CONSISTENCY])
    run = stages.open_run(tmp_path, "t")
    distill(recipe, run)
    with pytest.raises(UserError, match=r"samples by the solver consistency, which no scheduler of diffusers has"):
        exported(run)
    assert not (run / "packages").exists()


def test_steps_that_no_scheduler_makes_from_zero_snr_are_refused(runs: Path, tiny_text: str, tmp_path: Path) -> None:
    recipe = load_text(tiny_text, name="t", overrides=[*taught_by(runs / "teacherTrue"), *THREE])
    run = stages.open_run(tmp_path, "t")
    student = distill(recipe, run)
    assert recipe_in(student.manifest, source="manifest").sampling.num_inference_steps == 3
    with pytest.raises(UserError, match=r"3 steps at the student's timesteps from zero SNR.*steps that divide 1000"):
        exported(run)
    assert not (run / "packages" / "diffusers").exists()
