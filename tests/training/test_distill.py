"""Every objective and every kind of timestep weight trains, and the student is what was asked for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DModel
from safetensors.torch import load_file

import dashdeploy
from dashdeploy.diffusion.sampling import plan
from dashdeploy.errors import UserError
from dashdeploy.recipe.load import load_text
from dashdeploy.stages import open_run
from dashdeploy.teachers import formats, networks
from dashdeploy.training import distill, loop, teach
from dashdeploy.training.progress import read_metrics
from tests.made import CONSISTENCY, GUIDED, SEGMENTS, save_teacher, schedule, taught_by


@pytest.mark.parametrize("importance", ["magnitude", "taylor"])
def test_a_student_that_starts_from_its_teacher_trains_and_is_the_same_each_time(
    recipe_with, tmp_path: Path, importance: str
) -> None:
    recipe = recipe_with(f"student.init={{kind: pruned, importance: {importance}, samples: 40}}")
    first, again = (distill.distill(recipe, open_run(tmp_path / name, "t")) for name in ("a", "b"))
    assert first.figures["init"] == {"kind": "pruned", "importance": importance, "samples": 40}
    assert read_metrics(first.folder / "metrics.jsonl")[0]["loss"] > 0
    one, two = (load_file(s.folder / "unet" / networks.WEIGHTS) for s in (first, again))
    assert all(torch.equal(one[name], two[name]) for name in one)
    UNet2DModel.from_pretrained(first.folder, subfolder="unet")


def test_another_start_is_another_student(recipe_with, tmp_path: Path) -> None:
    folder = open_run(tmp_path, "t")
    fresh = distill.distill(recipe_with(), folder)
    assert fresh.figures["init"] == {"kind": "random"}
    pruned = recipe_with("student.init.kind=pruned")
    with pytest.raises(UserError, match=r"student: finished with other values: student\.init\.kind random → pruned"):
        distill.distill(pruned, folder)
    assert distill.distill(pruned, folder, fresh=True).manifest["key"] != fresh.manifest["key"]


TERMS = {"dash": ["imitation", "unconditional", "anchor"], "cond_only": ["imitation", "anchor"], "scratch": ["denoise"]}


@pytest.mark.parametrize("kind", sorted(TERMS))
def test_every_objective_trains_and_logs_its_terms(recipe_with, tmp_path: Path, kind: str) -> None:
    recipe = recipe_with(f"distill.objective={{kind: {kind}}}", "distill.timestep_weights.kind=uniform")
    stage = distill.distill(recipe, open_run(tmp_path, "t"))
    assert set(TERMS[kind]) <= stage.figures.keys()
    assert stage.figures["compression"] >= 2


@pytest.mark.parametrize("kind", ["uncertainty", "loss_ema", "published", "tirt"])
def test_every_learnt_kind_is_learnt_by_a_teacher_and_transferred_bit_identical(
    tiny_text: str, tmp_path: Path, kind: str
) -> None:
    overrides = [f"{s}.timestep_weights.kind={kind}" for s in ("teach", "distill")]
    recipe = load_text(
        tiny_text, name="t", overrides=[*overrides, "teach.learning_rate=0.05", "teach.lr_schedule=constant"]
    )
    folder = open_run(tmp_path, "t")
    taught, student = teach.teach(recipe, folder), distill.distill(recipe, folder)
    name = "timestep_weights.safetensors"
    lam = load_file(taught.folder / name)["lambda"]
    assert float(lam.abs().max()) > 0
    assert torch.equal(lam, load_file(student.folder / name)["lambda"])
    assert sum(student.figures["timestep_weight_by_decile"]) == pytest.approx(1)


def test_the_student_loads_in_plain_diffusers(tiny_run: Path) -> None:
    unet = UNet2DModel.from_pretrained(tiny_run / "student", subfolder="unet")
    assert sum(p.numel() for p in unet.parameters()) == 11_797


def test_the_stored_student_holds_the_averaged_weights_and_not_the_last(recipe_with, tmp_path: Path) -> None:
    stages = [
        distill.distill(recipe_with(f"distill.ema_decay={decay}"), open_run(tmp_path / str(decay), "t"))
        for decay in (0.0, 0.9)
    ]
    last, mean = (load_file(s.folder / "unet" / networks.WEIGHTS)["conv_in.weight"] for s in stages)
    assert not torch.equal(last, mean)


def test_a_teacher_trained_in_the_run_goes_before_the_given_one(recipe_with, tmp_path: Path, tiny_run: Path) -> None:
    recipe = recipe_with("teach.steps=3")
    folder = open_run(tmp_path, "t")
    taught = teach.teach(recipe, folder)
    assert distill.distill(recipe, folder).figures["teacher"] == str(taught.folder.absolute())
    assert tiny_run.is_dir()


def test_a_recipe_without_a_teach_section_cannot_teach(recipe_with, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no teach section"):
        teach.teach(recipe_with("teach=null"), open_run(tmp_path, "t"))


@pytest.mark.parametrize(
    ("taught", "zero_snr", "more", "predicts"),
    [
        ("v_prediction", False, (), "v_prediction"),
        ("v_prediction", True, (), "v_prediction"),
        ("v_prediction", False, ("student.prediction_type=epsilon",), "epsilon"),
        ("epsilon", False, ("student.prediction_type=sample",), "sample"),
        ("sample", True, ("student.init={kind: pruned, importance: taylor, samples: 16}",), "sample"),
        ("v_prediction", False, ("distill.teacher_bank=20",), "v_prediction"),
        ("epsilon", False, GUIDED, "epsilon"),
        ("epsilon", False, SEGMENTS, "v_prediction"),
        ("v_prediction", True, (*SEGMENTS, "distill.teacher_bank=20"), "v_prediction"),
        ("v_prediction", True, (*SEGMENTS, "student.init.kind=pruned"), "v_prediction"),
    ],
)
def test_a_students_folder_says_what_it_predicts_and_keeps_its_teachers_schedule(
    tiny_text: str, tmp_path: Path, taught: str, zero_snr: bool, more: tuple[str, ...], predicts: str
) -> None:
    folder = save_teacher(tmp_path / "teacher", taught, zero_snr=zero_snr)
    recipe = load_text(tiny_text, name="t", overrides=[*taught_by(folder), *more])
    stage = distill.distill(recipe, open_run(tmp_path, "t"))
    known = formats.load(stage.folder, role="student").interface
    assert known.prediction == predicts
    assert known.schedule.sha256 == schedule(zero_snr=zero_snr).sha256
    one = "student.branches=1" in more
    assert (known.branches, known.guidance_range) == ((1, (1.0, 4.0)) if one else (2, None))
    assert [len(grid) for grid in known.grids] == ([4, 2] if "segments" in str(more) else [])
    saved = json.loads((stage.folder / "scheduler" / "scheduler_config.json").read_text())
    assert saved["prediction_type"] == predicts
    with dashdeploy.open(stage.folder) as opened:
        assert opened.sample(3, guidance=2.0, steps=4, seed=0).shape == (1, 8, 8, 1)


def test_diffusers_samples_a_v_student_with_zero_snr_as_we_do(tiny_text: str, tmp_path: Path) -> None:
    from diffusers import DDIMScheduler

    folder = save_teacher(tmp_path / "teacher", "v_prediction", zero_snr=True)
    stage = distill.distill(load_text(tiny_text, name="t", overrides=taught_by(folder)), open_run(tmp_path, "t"))
    scheduler = DDIMScheduler.from_pretrained(stage.folder, subfolder="scheduler")
    unet = UNet2DModel.from_pretrained(stage.folder, subfolder="unet")
    assert float(scheduler.alphas_cumprod[-1]) == 0
    scheduler.set_timesteps(4)
    y = torch.tensor([3, 7])
    x = noise = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for t in scheduler.timesteps:
            null, cond = unet(x, t, torch.full_like(y, 10)).sample, unet(x, t, y).sample
            x = scheduler.step(null + 2.0 * (cond - null), t, x, use_clipped_model_output=True).prev_sample
    with dashdeploy.open(stage.folder) as opened:
        ours = opened.model.sample(noise, y, plan(opened.sampling, 1000))
    torch.testing.assert_close(ours, x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("more", [GUIDED, SEGMENTS, CONSISTENCY], ids=["guided", "segments", "consistency"])
def test_a_one_branch_student_with_a_bank_that_was_stopped_and_resumed_is_bit_identical(
    tiny_text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...]
) -> None:
    folder = save_teacher(tmp_path / "teacher", "v_prediction", zero_snr=True)
    steps = ("distill.steps=6", "distill.checkpoint_every=2", "distill.teacher_bank=40")
    recipe = load_text(tiny_text, name="t", overrides=[*taught_by(folder), *more, *steps])
    whole = distill.distill(recipe, open_run(tmp_path, "whole"))
    again, done = open_run(tmp_path, "again"), iter(range(2))
    with monkeypatch.context() as patch, pytest.raises(StopIteration):
        # The run ends after step 3; its last checkpoint is step 2's.
        patch.setattr(loop, "any_process", lambda *_: next(done) < 0)
        distill.distill(recipe, again)
    assert not (again / "student").exists() and (again / ".work" / "student").is_dir()
    resumed = distill.distill(recipe, again)
    name = f"unet/{networks.ONE_BRANCH_WEIGHTS}"
    assert resumed.manifest["files"][name] == whole.manifest["files"][name]
    ours, theirs = (read_metrics(stage.folder / "metrics.jsonl") for stage in (resumed, whole))
    assert [record["loss"] for record in ours] == [record["loss"] for record in theirs] and len(ours) == 6


def test_data_of_another_resolution_are_refused_with_the_size_to_set(recipe_with, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"images are \(1, 8, 8\).*set data\.image_size to 8"):
        distill.distill(recipe_with("data.image_size=16"), open_run(tmp_path, "t"))


def test_the_dataset_s_own_default_said_outright_is_the_same_student(recipe_with, tmp_path: Path) -> None:
    folder = open_run(tmp_path, "t")
    first = distill.distill(recipe_with(), folder)
    again = distill.distill(recipe_with("data.horizontal_flip=false", "distill.log_every=3"), folder)
    assert again.manifest == first.manifest


@pytest.mark.parametrize("clip_sample", [True, False])
def test_diffusers_samples_a_students_folder_as_we_do(recipe_with, tmp_path: Path, clip_sample: bool) -> None:
    from diffusers import DDIMScheduler

    stage = distill.distill(recipe_with(f"sampling.clip_sample={clip_sample}".lower()), open_run(tmp_path, "t"))
    scheduler = DDIMScheduler.from_pretrained(stage.folder, subfolder="scheduler")
    unet = UNet2DModel.from_pretrained(stage.folder, subfolder="unet")
    assert scheduler.config.clip_sample == clip_sample
    scheduler.set_timesteps(4)
    y = torch.tensor([3, 7])
    x = noise = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for t in scheduler.timesteps:
            null, cond = unet(x, t, torch.full_like(y, 10)).sample, unet(x, t, y).sample
            x = scheduler.step(null + 2.0 * (cond - null), t, x, use_clipped_model_output=clip_sample).prev_sample
    with dashdeploy.open(stage.folder) as opened:
        ours = opened.model.sample(noise, y, plan(opened.sampling, 1000))
    assert (float(ours.abs().max()) <= 1) == clip_sample
    # Without clipping the first x_0 is a hundred times its size: errors are relative to that.
    torch.testing.assert_close(ours, x, rtol=1e-3, atol=1e-4 * max(1.0, float(x.abs().max())))
