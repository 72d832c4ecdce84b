from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dashdeploy.data import load_dataset
from dashdeploy.diffusion import guided_targets
from dashdeploy.diffusion.denoiser import TorchDenoiser
from dashdeploy.diffusion.grids import grids, segments_of
from dashdeploy.diffusion.sampling import plan
from dashdeploy.diffusion.schedule import NoiseSchedule
from dashdeploy.errors import UserError
from dashdeploy.preflight.examine import require
from dashdeploy.recipe.load import load_text
from dashdeploy.recipe.schema import Recipe
from dashdeploy.stages import open_run
from dashdeploy.students.architecture import design
from dashdeploy.teachers import formats, networks, unet2d
from dashdeploy.training import distill
from dashdeploy.training.batches import FreshDraws
from dashdeploy.training.step import TrainStep
from dashdeploy.training.student import live_source, own_keys, student_prediction, student_step
from dashdeploy.training.timestep_weights import TimestepWeights
from tests.made import CONSISTENCY, GUIDED, PROGRESSIVE, SEGMENTS, SMALL, save_teacher, schedule, taught_by


def test_t_is_drawn_from_the_sampler_s_timesteps_alone(recipe_with, tiny_run: Path) -> None:
    teacher = formats.load(tiny_run / "teacher", role="teacher")
    recipe = recipe_with("distill.timesteps=sampling", "sampling.num_inference_steps=7")
    data = load_dataset(recipe.data)
    source = live_source(recipe, data, teacher)
    visited = set(plan(recipe.sampling, 1000).timesteps)
    drawn = {int(t) for step in range(40) for t in source.draw(step).t}
    assert drawn == visited and len(visited) == 7
    everywhere = live_source(recipe_with("sampling.num_inference_steps=7"), data, teacher)
    assert len({int(t) for step in range(40) for t in everywhere.draw(step).t}) > 100


@pytest.mark.parametrize(
    ("taught", "asked", "predicts", "compared"),
    [
        ("epsilon", None, "epsilon", "epsilon"),
        ("v_prediction", None, "v_prediction", "v_prediction"),
        ("sample", None, "sample", "sample"),
        ("epsilon", "v_prediction", "v_prediction", "epsilon"),
        ("epsilon", "sample", "sample", "epsilon"),
        ("v_prediction", "epsilon", "epsilon", "epsilon"),
        ("v_prediction", "sample", "sample", "v_prediction"),
    ],
)
def test_a_student_predicts_what_its_teacher_does_or_what_the_recipe_says(
    tiny_text: str, tmp_path: Path, taught: str, asked: str | None, predicts: str, compared: str
) -> None:
    teacher = formats.load(save_teacher(tmp_path, taught), role="teacher")
    overrides = [*taught_by(tmp_path), f"student.prediction_type={asked or 'null'}"]
    recipe = load_text(tiny_text, name="t", overrides=overrides)
    step, source = made(recipe, teacher)
    assert student_prediction(recipe, teacher) == step.denoiser.interface.prediction == predicts
    assert step.prediction == source.prediction == compared
    # Targets and the teacher's outputs are given as that, by the definitions.
    batch = source.complete(source.draw(0))
    bar = schedule().alphas_cumprod[batch.t].double().view(-1, 1, 1, 1)
    a, s = bar.sqrt(), (1 - bar).sqrt()
    output, x_t = teacher(batch.x_t, batch.t, batch.y).detach().double(), batch.x_t.double()
    x_0 = {"epsilon": (x_t - s * output) / a, "v_prediction": a * x_t - s * output, "sample": output}[taught]
    eps = (x_t - a * x_0) / s
    wanted = {"epsilon": eps, "v_prediction": a * eps - s * x_0, "sample": x_0}[compared]
    torch.testing.assert_close(batch.teacher_cond.double(), wanted, rtol=1e-4, atol=1e-4)
    image = {
        "epsilon": (x_t - s * batch.target) / a,
        "v_prediction": a * x_t - s * batch.target,
        "sample": batch.target,
    }
    assert float(image[compared].abs().max()) < 1.01, "the target says the image, which is in [-1, 1]"


def test_an_x_0_student_of_a_v_teacher_with_zero_snr_is_taught_at_its_last_timestep_too(
    tiny_text: str, tmp_path: Path
) -> None:
    teacher = formats.load(save_teacher(tmp_path, "v_prediction", zero_snr=True), role="teacher")
    recipe = load_text(tiny_text, name="t", overrides=[*taught_by(tmp_path), "student.prediction_type=sample"])
    step, source = made(recipe, teacher)
    last = replace(source.draw(0), t=torch.full((16,), 999))
    batch = source.complete(last)
    assert source.prediction == "v_prediction" and batch.teacher_cond.isfinite().all()
    step(batch, batch.t).total.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in step.denoiser.parameters())


@pytest.mark.parametrize("own", [None, "epsilon"])
def test_an_eps_student_of_a_teacher_with_zero_snr_is_refused(tiny_text: str, tmp_path: Path, own: str | None) -> None:
    folder = save_teacher(tmp_path / "v", "v_prediction", zero_snr=True)
    recipe = load_text(tiny_text, name="t", overrides=[*taught_by(folder), f"student.prediction_type={own or 'null'}"])
    teacher = formats.load(folder, role="teacher")
    if own is None:
        assert student_prediction(recipe, teacher) == "v_prediction"
        return
    with pytest.raises(
        UserError, match=r"the teacher's schedule has zero SNR at its end, and student\.prediction_type"
    ) as e:
        distill.distill(recipe, open_run(tmp_path, "t"))
    assert "set student.prediction_type to v_prediction or sample" in str(e.value) and "\n" not in str(e.value)


def test_a_few_step_student_of_an_eps_teacher_must_say_what_it_predicts(tiny_text: str, tmp_path: Path) -> None:
    folder = save_teacher(tmp_path / "eps", "epsilon")
    overrides = [*taught_by(folder), *SEGMENTS, "student.prediction_type=null"]
    recipe = load_text(tiny_text, name="t", overrides=overrides)
    with pytest.raises(
        UserError, match=r"segments trains for few steps, and .* is not given, and the teacher's is eps"
    ):
        distill.distill(recipe, open_run(tmp_path, "t"))
    taken = load_text(tiny_text, name="t", overrides=[*overrides[:-1], "student.prediction_type=sample"])
    assert student_prediction(taken, formats.load(folder, role="teacher")) == "sample"


def test_a_student_of_one_branch_knows_its_range_and_its_grids_and_so_does_its_configuration(
    tiny_text: str, tmp_path: Path
) -> None:
    teacher = formats.load(save_teacher(tmp_path, "epsilon"), role="teacher")
    for more, range_, few, everywhere in (
        (GUIDED, (1.0, 4.0), (), True),
        (SEGMENTS, (1.0, 4.0), grids((4, 2), 1000), False),
        (CONSISTENCY, (1.0, 4.0), ((999, 749, 499, 249), (999, 499)), True),
    ):
        recipe = load_text(tiny_text, name="t", overrides=[*taught_by(tmp_path), *more])
        step, source = made(recipe, teacher)
        known = step.denoiser.interface
        assert (known.branches, known.guidance_range, known.grids) == (1, range_, few)
        config = dict(step.denoiser.unet.config)
        assert tuple(config["guidance_range"]) == range_
        assert tuple(map(tuple, config.get("timestep_grids") or ())) == few
        # t from the grids' timesteps alone, or from all; w over the whole range.
        batches = [source.draw(step) for step in range(30)]
        drawn = {int(t) for batch in batches for t in batch.t}
        assert len(drawn) > 100 if everywhere else drawn == {t for grid in few for t in grid}
        w = torch.cat([batch.w for batch in batches])
        assert 1 <= float(w.min()) < 1.2 and 3.8 < float(w.max()) < 4


def test_draws_of_one_branch_hold_the_targets_of_the_guided_teacher_at_their_own_w(
    tiny_text: str, tmp_path: Path
) -> None:
    teacher = formats.load(save_teacher(tmp_path, "epsilon"), role="teacher")
    recipe = load_text(tiny_text, name="t", overrides=[*taught_by(tmp_path), *SEGMENTS])
    _, source = made(recipe, teacher)
    batch = source.complete(source.draw(3))
    following = dict(segments_of(grids((4, 2), 1000)))
    s = torch.tensor([following[int(t)] for t in batch.t])
    expected = guided_targets.target(
        *(teacher, batch.x_t, batch.t, s, batch.y, batch.w), steps=2, clip=True, prediction="v_prediction"
    )
    torch.testing.assert_close(batch.target, expected, rtol=1e-5, atol=1e-5)
    assert batch.teacher_cond is None and batch.teacher_uncond is None


def test_a_phase_of_a_progressive_student_is_taught_two_steps_of_twice_as_many(tiny_text: str, tmp_path: Path) -> None:
    teacher = formats.load(save_teacher(tmp_path, "v_prediction"), role="teacher")
    recipe = load_text(tiny_text, name="t", overrides=[*taught_by(tmp_path), *PROGRESSIVE, "distill.steps=3"])
    step, _ = made(recipe, teacher)
    assert step.denoiser.interface.grids == ((999, 749, 499, 249),)
    data = load_dataset(recipe.data)
    step.denoiser.eval()
    for phase, (n, taught) in enumerate(((16, teacher), (8, step.denoiser), (4, step.denoiser)), start=1):
        source = live_source(recipe, data, taught, phase=phase)
        assert sorted(source.timesteps.tolist(), reverse=True) == list(grids((n,), 1000)[0])
        batch = source.complete(source.draw(3))
        path = [*grids((2 * n,), 1000)[0], -1]
        via, s = (torch.tensor([path[path.index(int(t)) + i] for t in batch.t]) for i in (1, 2))
        # A student's x_0 is where its step ends, which no clipping may change.
        x = batch.x_t
        for now, after in ((batch.t, via), (via, s)):
            x = guided_targets.path(taught, x, now, after, batch.y, batch.w, steps=1, clip=phase == 1)
        bars = teacher.interface.schedule.alphas_cumprod_from_clean
        x_0 = guided_targets.x_0_that_lands(batch.x_t, x, *(bars[i + 1].view(-1, 1, 1, 1) for i in (batch.t, s)))
        found = step.denoiser.interface.convert(batch.target, batch.x_t, batch.t, "sample")
        torch.testing.assert_close(found, x_0, rtol=1e-3, atol=1e-3)


def test_a_consistency_draw_holds_where_the_guided_teacher_takes_it(tiny_text: str, tmp_path: Path) -> None:
    teacher = formats.load(save_teacher(tmp_path, "epsilon"), role="teacher")
    recipe = load_text(tiny_text, name="t", overrides=[*taught_by(tmp_path), *CONSISTENCY])
    step, source = made(recipe, teacher)
    batch = max((source.complete(source.draw(i)) for i in range(30)), key=lambda drawn: int((drawn.s == -1).sum()))
    assert int((batch.s == -1).sum()) > 0
    assert batch.s.tolist() == [max(t - 30, -1) for t in batch.t.tolist()]
    expected = guided_targets.path(teacher, batch.x_t, batch.t, batch.s, batch.y, batch.w, steps=1, clip=True)
    torch.testing.assert_close(batch.target, expected, rtol=1e-5, atol=1e-5)
    assert step.prediction == "sample" and float(step(batch, batch.t).total.detach()) > 0


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (PROGRESSIVE, r"progressive: its first phase halves 32 steps of the teacher, whose schedule has 30 timesteps"),
        (CONSISTENCY, r"distill\.objective\.skip 30: the teacher's schedule has 30 timesteps"),
    ],
    ids=["progressive", "consistency"],
)
def test_a_schedule_too_short_for_halvings_or_skips_is_refused(
    tiny_text: str, tmp_path: Path, more: tuple[str, ...], message: str
) -> None:
    unet = unet2d.build(SMALL, image_shape=(1, 8, 8), num_classes=10, seed=0)
    networks.save(unet, NoiseSchedule(np.full(30, 0.2)), tmp_path / "short", prediction="v_prediction")
    recipe = load_text(tiny_text, name="t", overrides=[*taught_by(tmp_path / "short"), *more, "distill.steps=3"])
    with pytest.raises(UserError, match=message):
        require(recipe, tmp_path / "t", wanted=("distill",))
    with pytest.raises(UserError, match=message):
        distill.distill(recipe, open_run(tmp_path, "t"))


def test_too_few_timesteps_for_the_steps_that_are_asked_for_are_one_line(tiny_text: str, tmp_path: Path) -> None:
    unet = unet2d.build(SMALL, image_shape=(1, 8, 8), num_classes=10, seed=0)
    networks.save(unet, NoiseSchedule(np.full(8, 0.3)), tmp_path / "short", prediction="v_prediction")
    overrides = [*taught_by(tmp_path / "short"), *SEGMENTS, "distill.objective.steps=[4, 8]"]
    recipe = load_text(tiny_text, name="t", overrides=overrides)
    with pytest.raises(UserError, match=r"distill\.objective\.steps \[4, 8\]: 8 timesteps are too few"):
        distill.distill(recipe, open_run(tmp_path, "t"))


def made(recipe: Recipe, teacher: TorchDenoiser) -> tuple[TrainStep, FreshDraws]:
    """A recipe's student with its loss, and its draws, as `distill` makes them."""
    data = load_dataset(recipe.data)
    own = own_keys(recipe, teacher.interface.schedule.num_train_timesteps)
    student = design(recipe.student, networks.config_of(teacher.unet), own)
    weights = TimestepWeights(recipe.distill.timestep_weights, teacher.interface.schedule)
    return student_step(recipe, student, teacher, weights, data), live_source(recipe, data, teacher)
