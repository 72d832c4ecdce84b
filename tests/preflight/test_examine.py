"""What any stage will need is looked at before the first one: every problem at once, nothing made."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dashdeploy import stages
from dashdeploy.diffusion import schedule as schedules
from dashdeploy.errors import UserError
from dashdeploy.preflight import examine as preflight
from dashdeploy.recipe.load import load_text
from dashdeploy.recipe.schema import NoiseSchedule, Recipe
from dashdeploy.teachers import networks, unet2d
from dashdeploy.training import accelerator, bank

READY = """
name: ready
teacher: {path: teachers/digits}
student: {architecture: {block_out_channels: [8, 16], layers_per_block: 1, norm_num_groups: 4}}
distill: {steps: 4, batch_size: 8, warmup_steps: 1}
sampling: {num_inference_steps: 4}
"""
TAUGHT = """
name: taught
teach: {architecture: {block_out_channels: [8, 16], norm_num_groups: 4}, steps: 4, batch_size: 8, warmup_steps: 1}
student: {compression: 2.0}
distill: {steps: 4, batch_size: 8, warmup_steps: 1}
"""


def recipe(*overrides: str, text: str = READY) -> Recipe:
    return load_text(text, name="recipe", overrides=list(overrides))


def problems(*overrides: str, text: str = READY, folder: Path = Path("none/ready"), **wanted: Any) -> list[str]:
    return preflight.examine(recipe(*overrides, text=text), folder, **wanted).problems


@pytest.mark.parametrize("text", [READY, TAUGHT])
def test_a_recipe_that_can_be_carried_out_has_no_problem_and_nothing_is_made(text: str, tmp_path: Path) -> None:
    facts = preflight.examine(recipe(text=text), tmp_path / "run")
    assert facts.problems == [] and facts.warnings == [] and facts.reasons == {}
    assert facts.student is not None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("overrides", "text", "expected"),
    [
        (["bench.quality={features: inception, features_weights: /none.pth}"], READY, "none.pth: no such file"),
        (["bench.quality.features=inception"], READY, "needs its weights"),
        (["bench.quality.features=nope"], READY, "no committed feature network for 'nope'.*none.*fit.*inception"),
        (["export=[nope]"], READY, "unknown export target 'nope'"),
        (["export=[tensorrt]"], READY, "(?i)tensorrt"),
        (["export=[cpp, onnx-cpu]", "sampling.solver=dpmpp_2m"], READY, "cpp of .*packages run DDIM"),
        (["data.path=mine"], READY, "the digits come with scikit-learn and are not read from a path"),
        (["teach.label_dropout=0"], TAUGHT, "nothing would train the teacher's null class"),
        (["noise_schedule={beta_start: 1e-12}"], TAUGHT, "no noise is left"),
        (["distill.tracker=clearml"], READY, "tracker: clearml is not installed"),
        (["distill.precision=fp16"], READY, "precision fp16 does not work on a CPU"),
        (["teach.tracker=clearml"], TAUGHT, "tracker: clearml is not installed"),
        (["distill.timestep_weights={kind: tirt}"], READY, "takes λ from the teacher"),
        (["data.image_size=12"], READY, r"its images are \(1, 8, 8\).*set data.image_size to 8"),
        (["teach.architecture.block_out_channels=[8, 8, 8, 8, 8]"], TAUGHT, "8 pixels cannot be halved 4 times"),
        (["student.architecture.block_out_channels=[8, 8, 8, 8, 8]"], READY, "8 pixels cannot be halved 4 times"),
        (
            ["student={architecture: null, dit: {patch_size: 3}}"],
            READY,
            "patch_size 3 does not divide images or latents of side 8",
        ),
        (
            ["student={architecture: null, dit: {}}", "distill.objective={kind: fitnets}"],
            READY,
            "DiTTransformer2DModel has no middle block",
        ),
        (["student={architecture: null, compression: 5000}"], READY, "the smallest student"),
        (["data={name: image_folder, path: /none}"], READY, "cannot be listed as data.path"),
        (["data.holdout=0.9999"], READY, "leaves none to train on"),
        (["teacher.path=/none"], READY, "no such folder"),
    ],
)
def test_what_a_later_stage_would_refuse_is_told_first(overrides: list[str], text: str, expected: str) -> None:
    (problem,) = problems(*overrides, text=text)
    assert re.search(expected, problem), problem


def test_every_problem_is_told_at_once_a_line_each() -> None:
    changed = recipe("export=[nope]", "bench.quality.features=nope", "distill.tracker=clearml")
    with pytest.raises(UserError) as error:
        preflight.require(changed, Path("none/ready"))
    first, *rest = str(error.value).splitlines()
    assert first == "3 problems, and nothing was started:"
    assert len(rest) == 3 and all(line.startswith("  ") for line in rest)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("part", ["teach", "student"])
def test_a_network_that_memory_cannot_hold_is_refused_before_it_is_made(part: str) -> None:
    widths = "{block_out_channels: [8192, 8192, 8192], layers_per_block: 100, norm_num_groups: 8}"
    given, text = (
        (f"teach.architecture={widths}", TAUGHT) if part == "teach" else (f"student.architecture={widths}", READY)
    )
    (problem,) = problems(given, text=text)
    assert "more than 364" in problem and "training it takes" in problem


def test_only_what_the_wanted_steps_need_is_looked_at() -> None:
    changes = ("bench.quality.features=nope", "export=[nope]")
    assert problems(*changes, wanted=("distill",)) == []
    assert len(problems(*changes, wanted=("distill", "export"))) == 1


def images(folder: Path, shape: tuple[int, ...]) -> Path:
    rng = np.random.default_rng(0)
    for name in map(str, range(10)):
        (folder / name).mkdir(parents=True)
        for i in range(4):
            Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(folder / name / f"{i}.png")
    return folder


def test_images_of_the_users_need_a_choice_of_features_and_the_teachers_channels(tmp_path: Path) -> None:
    grey, rgb = images(tmp_path / "grey", (8, 8)), images(tmp_path / "rgb", (8, 8, 3))
    (problem,) = problems(f"data={{name: image_folder, path: {grey}}}")
    assert "no committed feature network for 'image_folder'" in problem
    for choice in ("none", "fit"):
        assert problems(f"data={{name: image_folder, path: {grey}}}", f"bench.quality.features={choice}") == []
    (problem,) = problems(f"data={{name: image_folder, path: {rgb}}}", "bench.quality.features=none")
    assert "its images are (1, 8, 8) (C, H, W) and the data's (3, 8, 8)" in problem


def test_latents_are_told_before_a_student_is_trained(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    latents = rng.standard_normal((20, 4, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "latents.npz", latents=latents, labels=np.arange(20) % 10)
    data = (f"data={{name: latents, path: {tmp_path / 'latents.npz'}}}",)
    changes = ("sampling.clip_sample=false", "bench.quality.features=none", *data)
    loaded = load_text(TAUGHT, name="recipe", overrides=list(reversed(changes)))
    found = preflight.examine(loaded, Path("none/taught")).problems
    assert any("its data are latents, and the benchmark measures images" in p for p in found)
    assert preflight.examine(loaded, Path("none/taught"), wanted=("teach", "distill")).problems == []


def test_steps_are_held_to_the_teachers_schedule(tmp_path: Path) -> None:
    made = recipe(text=TAUGHT)
    assert made.teach is not None
    net = unet2d.build(made.teach.architecture, image_shape=(1, 8, 8), num_classes=10, seed=0)
    networks.save(net, schedules.from_recipe(NoiseSchedule(num_train_timesteps=20)), tmp_path)
    (problem,) = problems(f"teacher.path={tmp_path}", "sampling.num_inference_steps=50")
    assert problem == "num_inference_steps 50 exceeds the 20 timesteps of the noise schedule"


def test_a_pruned_start_needs_torch_pruning(monkeypatch: pytest.MonkeyPatch) -> None:
    pruned = ("student={architecture: null, compression: 4.0, init: {kind: pruned}}",)
    assert problems(*pruned) == []
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    (problem,) = problems(*pruned)
    assert "torch_pruning is needed here" in problem and "dashdeploy[prune]" in problem


def test_a_bank_larger_than_memory_allows_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bank, "machine_bytes", lambda: 100_000_000)
    (problem,) = problems("distill.teacher_bank=100000")
    assert problem.startswith("distill.teacher_bank 100000: it would take 0.1 GiB")


def test_a_batch_must_divide_among_the_processes() -> None:
    with pytest.raises(UserError, match="batch_size 8 does not divide among 3 processes"):
        accelerator.refuse(recipe().distill, processes=3)


def test_a_run_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    (problem,) = problems(folder=tmp_path / "runs" / "ready")
    assert "cannot be written to. Choose another with --run-dir" in problem


def test_a_full_disk_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    (problem,) = problems()
    assert "0.0 GiB are free" in problem


def test_guidance_that_the_objective_does_not_train_is_a_warning() -> None:
    objective = "distill.objective={kind: multi_w, w_min: 1.0, w_max: 3.0}"
    (warning,) = preflight.examine(recipe(objective), Path("none/ready")).warnings
    assert warning.startswith("the objective multi_w trains w = 1 to 3, and the benchmark samples at w=4, ")


def test_which_stages_are_finished_and_why_others_are_made_again(
    tiny_run: Path, tiny_text: str, tmp_path: Path
) -> None:
    folder = tmp_path / "tiny"
    shutil.copytree(tiny_run, folder)

    def reasons(*overrides: str, fresh: bool = False) -> dict[str, list[str]]:
        return preflight.examine(
            load_text(tiny_text, name="tiny", overrides=list(overrides)), folder, fresh=fresh
        ).reasons

    artifact = "artifacts/onnx-cpu"
    assert reasons() == {"teacher": [], "student": [], artifact: []}
    steps = reasons("sampling.num_inference_steps=3")
    assert steps == {"teacher": [], "student": [], artifact: ["sampling.num_inference_steps 4 → 3"]}
    rate = reasons("distill.learning_rate=1e-4")
    assert rate["student"] == ["distill.learning_rate 0.0002 → 0.0001"]
    assert rate[artifact] == ["student is made again"]
    assert reasons(fresh=True) == {"teacher": [], "student": ["--fresh"], artifact: ["--fresh"]}


def test_a_finished_student_with_other_values_is_told_before_a_teacher_is_trained(
    tiny_run: Path, tiny_text: str
) -> None:
    changed = load_text(tiny_text, name="tiny", overrides=["distill.learning_rate=1e-4"])
    (problem,) = preflight.examine(changed, tiny_run).problems
    assert "finished with other values: distill.learning_rate" in problem and "--fresh" in problem
    assert preflight.examine(changed, tiny_run, fresh=True).problems == []


def test_what_a_finished_stage_needed_is_not_asked_for_again(tiny_run: Path, tiny_text: str) -> None:
    tracked = load_text(tiny_text, name="tiny", overrides=["distill.tracker=clearml", "teach.tracker=clearml"])
    assert preflight.examine(tracked, tiny_run).problems == []
    assert stages.read_stage(tiny_run / "student")
