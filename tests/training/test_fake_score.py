"""Distribution matching: its gradient, the fake score, what trains in which step, exact resume, what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from pydantic import ValidationError

from dashdeploy import stages
from dashdeploy.data import load_dataset
from dashdeploy.diffusion.denoiser import TorchDenoiser
from dashdeploy.diffusion.sampling import Plan, ddim
from dashdeploy.errors import UserError
from dashdeploy.objectives.base import Batch
from dashdeploy.objectives.distribution_matching import DistributionMatching
from dashdeploy.preflight.examine import examine
from dashdeploy.recipe import schema
from dashdeploy.recipe.load import load_text
from dashdeploy.recipe.schema import Recipe
from dashdeploy.students.architecture import design
from dashdeploy.teachers import formats, networks
from dashdeploy.training import loop
from dashdeploy.training.distill import distill
from dashdeploy.training.fake_score import FakeScore, StudentDraws
from dashdeploy.training.progress import read_metrics
from dashdeploy.training.step import Compared, TrainStep
from dashdeploy.training.student import live_source, own_keys, student_step
from dashdeploy.training.timestep_weights import TimestepWeights
from tests.made import CONSISTENCY, GUIDED, MATCHING, SEGMENTS, save_teacher, schedule, taught_by
from tests.training.two import launch

GRIDS = ((999, 749, 499, 249), (984, 484))


@pytest.fixture(scope="module")
def runs(tiny_text: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a teacher of eps and the run `few`: a student of 4 and 2 steps."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("matching")
    save_teacher(folder / "teacher", "epsilon")
    distill(load_text(tiny_text, name="t", overrides=[*taught_by(folder / "teacher"), *SEGMENTS]), folder / "few")
    return folder


def changes(runs: Path) -> list[str]:
    return [*taught_by(runs / "teacher"), *MATCHING, f"student.init={{kind: run, path: {runs / 'few'}}}"]


def matching(tiny_text: str, runs: Path, *more: str) -> Recipe:
    return load_text(tiny_text, name="t", overrides=[*changes(runs), *more])


def made(recipe: Recipe, runs: Path) -> tuple[TrainStep, StudentDraws, TorchDenoiser]:
    teacher, data = formats.load(runs / "teacher", role="teacher"), load_dataset(recipe.data)
    student = design(recipe.student, networks.config_of(teacher.unet), own_keys(recipe, 1000))
    module = student_step(recipe, student, teacher, TimestepWeights(schema.TimestepWeights(), schedule()), data)
    source = live_source(recipe, data, teacher)
    assert isinstance(source, StudentDraws) and isinstance(module.objective, FakeScore)
    return module, source, teacher


def student_of(module: TrainStep) -> Compared:
    return Compared(module.denoiser, "sample")


def x_0_of(eps: torch.Tensor, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    bar = schedule().alphas_cumprod.double()[t].view(-1, 1, 1, 1)
    return (x.double() - (1 - bar).sqrt() * eps.double()) / bar.sqrt()


def test_the_students_gradient_is_that_of_dmd_eq_7_and_8(tiny_text: str, runs: Path) -> None:
    module, source, teacher = made(matching(tiny_text, runs), runs)
    batch = source.draw(2)
    module(batch, batch.t).total.backward()
    found = [p.grad for p in module.denoiser.parameters()]
    # By hand: v of the student, eps of the teacher, in float64 from their outputs on.
    t, y, w = batch.t, batch.y, batch.w
    x_t = module.objective.simulated(student_of(module), batch)
    bar = schedule().alphas_cumprod[t].view(-1, 1, 1, 1)
    x_0 = bar.sqrt() * x_t - (1 - bar).sqrt() * module.denoiser.guided(x_t, t, y, w)
    noised_t = (20 + 960 * batch.uniform).long()
    noised = schedule().add_noise(x_0.detach(), batch.target, noised_t)
    uncond, cond = (eps.double() for eps in teacher.branches(noised, noised_t, y))
    fake = x_0_of(cond, noised, noised_t)  # it begins as the conditional branch
    made_x_0 = x_0.detach().double()
    fake = fake.maximum(made_x_0.clamp(max=-1)).minimum(made_x_0.clamp(min=1))
    real = x_0_of(uncond + w.view(-1, 1, 1, 1) * (cond - uncond), noised, noised_t).clamp(-1, 1)
    assert bool((made_x_0.abs() > 1).any()), "this student leaves the range of images"
    size = (made_x_0 - real).abs().mean((1, 2, 3), keepdim=True)
    direction = (fake - real) / size
    expected = torch.autograd.grad((x_0 * direction / (len(t) * 64)).sum(), list(module.denoiser.parameters()))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-3, atol=1e-5)
    assert sum(float(grad.abs().sum()) for grad in found) > 0


def test_the_fake_score_begins_as_the_conditional_branch_and_learns_to_denoise_the_students_images(
    tiny_text: str, runs: Path
) -> None:
    module, source, teacher = made(matching(tiny_text, runs), runs)
    batch = source.draw(0)
    y, w = batch.y, batch.w
    torch.testing.assert_close(module.objective.fake.guided(batch.x_t, batch.t, y, w), teacher(batch.x_t, batch.t, y))
    x_t = module.objective.simulated(student_of(module), batch)
    x_0 = student_of(module).guided(x_t, batch.t, y, w)
    t = (20 + 960 * batch.uniform).long()
    eps = teacher(schedule().add_noise(x_0, batch.target, t), t, y).double()
    expected = (eps - batch.target.double()).square().mean((1, 2, 3))
    terms = module.objective(student_of(module), batch)
    torch.testing.assert_close(terms["fake"].value.double(), expected, rtol=1e-4, atol=1e-5)


def gradients(module: TrainStep, batch: Batch) -> tuple[list, list]:
    module.zero_grad(set_to_none=True)
    module(batch, batch.t).total.backward()
    return [p.grad for p in module.denoiser.parameters()], [p.grad for p in module.objective.fake.parameters()]


def test_in_a_step_of_the_fake_score_alone_the_student_has_no_gradient(tiny_text: str, runs: Path) -> None:
    module, source, _ = made(matching(tiny_text, runs), runs)
    batch = source.draw(0)
    student, alone = gradients(module, batch)
    assert all(grad is None for grad in student) and all(grad is not None for grad in alone)
    student, beside = gradients(module, replace(batch, trains_student=torch.ones_like(batch.trains_student)))
    assert all(grad is not None for grad in student)
    for one, other in zip(alone, beside, strict=True):
        torch.testing.assert_close(one, other)  # the student's term does not reach the fake score


def test_the_students_way_to_t_is_its_samplers(tiny_text: str, runs: Path) -> None:
    recipe = matching(tiny_text, runs, "sampling.clip_sample=false")
    module, source, _ = made(recipe, runs)
    batch = source.draw(0)
    for grid in GRIDS:
        last = replace(batch, t=torch.full_like(batch.t, grid[-1]), w=torch.full_like(batch.w, 2.0))
        x_t = module.objective.simulated(student_of(module), last)
        with torch.no_grad():
            x_0 = student_of(module).guided(x_t, last.t, last.y, last.w)
        run = Plan(timesteps=grid, weights=(2.0,) * len(grid), clip_sample=False, solver="ddim")
        torch.testing.assert_close(x_0, ddim(module.denoiser, batch.x_t, batch.y, run), rtol=1e-4, atol=1e-5)
        first = replace(last, t=torch.full_like(batch.t, grid[0]))
        assert torch.equal(module.objective.simulated(student_of(module), first), batch.x_t)


def test_draws_are_a_function_of_seed_and_step(tiny_text: str, runs: Path) -> None:
    recipe = matching(tiny_text, runs)
    _, source, _ = made(recipe, runs)
    _, again, _ = made(recipe, runs)
    draws = [source.draw(step) for step in range(30)]
    for name, value in vars(again.draw(7)).items():
        assert value is None or torch.equal(value, getattr(draws[7], name)), name
    assert not torch.equal(draws[7].x_t, draws[8].x_t) and not torch.equal(draws[7].x_t, draws[7].target)
    assert {int(t) for batch in draws for t in batch.t} == {t for grid in GRIDS for t in grid}
    assert [bool(batch.trains_student.all()) for batch in draws] == [step % 3 == 2 for step in range(30)]
    assert all(batch.trains_student.unique().numel() == 1 for batch in draws)
    _, patient, _ = made(matching(tiny_text, runs, "distill.steps=20", "distill.warmup_steps=9"), runs)
    trains = [step for step in range(20) if bool(patient.draw(step).trains_student.all())]
    assert trains == [11, 14, 17]  # the student waits for the warm-up
    assert all(bool(((batch.w >= 1) & (batch.w <= 4)).all()) for batch in draws)


def test_t_prime_reaches_both_ends_of_its_range() -> None:
    objective = DistributionMatching(noised_from=0.1, noised_to=0.5)
    ends = torch.tensor([0.0, 0.5, 0.99999994])
    assert objective.noised_t(ends, 1000).tolist() == [100, 300, 499]
    assert DistributionMatching(noised_from=0.99, noised_to=1.0).noised_t(ends, 2).tolist() == [2 - 1] * 3


def test_an_image_that_is_the_teachers_is_left_as_it_is() -> None:
    x = torch.rand(2, 1, 4, 4)
    assert torch.equal(DistributionMatching().target(x, x, x), x)


def test_student_and_fake_score_are_clipped_apart(tiny_text: str, runs: Path) -> None:
    module, source, _ = made(matching(tiny_text, runs), runs)
    student, fake = gradients(module, source.draw(2))
    for grad in fake:
        grad.mul_(1e4)
    before = [grad.clone() for grad in student]
    small = max(1.0, 2 * float(torch.nn.utils.get_total_norm(student)))
    norms = [float(torch.nn.utils.get_total_norm(grads)) for grads in (student, fake)]
    assert loop.clip(module, Accelerator(cpu=True), small) == pytest.approx((norms[0] ** 2 + norms[1] ** 2) ** 0.5)
    assert all(torch.equal(grad, kept) for grad, kept in zip(student, before, strict=True))
    assert float(torch.nn.utils.get_total_norm(fake)) == pytest.approx(small, rel=1e-4)


def weights_of(stage: stages.Stage) -> dict[str, torch.Tensor]:
    return formats.load(stage.folder, role="student").unet.state_dict()


@pytest.mark.parametrize("ema", ["0.5", "{kind: power}"])
def test_only_the_students_own_steps_change_it_and_its_average(
    tiny_text: str, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ema: str
) -> None:
    # A recipe of two steps would be refused.
    monkeypatch.setattr(DistributionMatching, "first_step", lambda *_: 0)
    settings = (f"distill.ema_decay={ema}", "distill.weight_decay=0.5")
    began = weights_of(stages.read_stage(runs / "few" / "student"))
    for steps in (2, 3):
        recipe = matching(tiny_text, runs, *settings, f"distill.steps={steps}")
        ended = weights_of(distill(recipe, stages.open_run(tmp_path, f"of{steps}")))
        same = [torch.equal(began[name], value) for name, value in ended.items()]
        assert all(same) if steps == 2 else not any(same)


def test_a_run_that_was_stopped_between_the_students_steps_resumes_bit_for_bit(
    tiny_text: str, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = matching(tiny_text, runs, "distill.steps=8", "distill.checkpoint_every=2", "distill.log_every=4")
    whole = distill(recipe, stages.open_run(tmp_path, "whole"))
    again, done = stages.open_run(tmp_path, "again"), iter(range(4))
    with monkeypatch.context() as patch, pytest.raises(StopIteration):
        # The run ends after step 5; its last checkpoint is step 4's, and the student trains in steps 3 and 6.
        patch.setattr(loop, "any_process", lambda *_: next(done) < 0)
        distill(recipe, again)
    resumed = distill(recipe, again)
    name = f"unet/{networks.ONE_BRANCH_WEIGHTS}"
    assert resumed.manifest["files"][name] == whole.manifest["files"][name]
    ours, theirs = (read_metrics(stage.folder / "metrics.jsonl") for stage in (resumed, whole))
    for key in ("loss", "fake", "matching", "grad_norm"):
        assert [record[key] for record in ours] == [record[key] for record in theirs], key
    assert list(stages.read_stage(whole.folder).figures["init"]) == ["kind", "path"]
    assert not any("fake" in key for key in weights_of(whole))


def test_parts_of_a_batch_give_the_loss_of_the_whole(tiny_text: str, runs: Path, tmp_path: Path) -> None:
    found = []
    for parts in (1, 4):
        recipe = matching(tiny_text, runs, "distill.steps=6", f"distill.gradient_accumulation={parts}")
        stage = distill(recipe, stages.open_run(tmp_path, f"by{parts}"))
        found.append([record["loss"] for record in read_metrics(stage.folder / "metrics.jsonl")])
    assert found[1] == pytest.approx(found[0], rel=2e-4)


@pytest.mark.slow
def test_two_processes_give_the_loss_curve_of_one(tiny_text: str, tiny_yaml: Path, runs: Path, tmp_path: Path) -> None:
    more = ["distill.steps=7", "distill.weight_decay=0.1"]
    one = distill(matching(tiny_text, runs, *more), stages.open_run(tmp_path, "one")).folder
    words = [word for change in (*changes(runs), *more) for word in ("--set", change)]
    done = launch("distill", tiny_yaml, "--run-dir", tmp_path / "two", *words)
    assert done.returncode == 0, done.stderr
    found, expected = (read_metrics(path / "metrics.jsonl") for path in (tmp_path / "two/tiny/student", one))
    for name in ("loss", "fake", "grad_norm"):
        assert [r[name] for r in found] == pytest.approx([r[name] for r in expected], rel=2e-4), name
    assert ["matching" in record["terms"] for record in found] == [step % 3 == 2 for step in range(7)]
    ours, theirs = (formats.load(path, role="student").unet for path in (tmp_path / "two/tiny/student", one))
    for here, there in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(here, there, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["student.init={kind: random}"], r"fine-tunes a finished few-step student: name its run in student\.init"),
        (["distill.teacher_bank=10"], r"teacher_bank 10: .* no bank holds them: set it to 0"),
        (["distill.timestep_weights.kind=min_snr_v"], r"kind min_snr_v .* set it to uniform"),
        (["distill.objective.noised_from=0.99"], r"noised_to \(0\.98\) must be above noised_from \(0\.99\)"),
        (["distill.objective.fake_updates=0"], "fake_updates"),
        (
            ["distill.steps=5", "distill.warmup_steps=3"],
            r"steps 5: .* in one step of 3 \(fake_updates\) after the first 3 .* lower warmup_steps or fake_updates",
        ),
    ],
)
def test_a_recipe_that_cannot_be_is_refused_when_it_is_read(
    tiny_text: str, runs: Path, more: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        matching(tiny_text, runs, *more)
    with pytest.raises(ValidationError):
        DistributionMatching(w_min=5.0)


@pytest.mark.parametrize(
    ("start", "more", "message"),
    [
        (SEGMENTS, ["distill.objective.steps=[4]"], r"makes 4 or 2 steps, and .* asks for 4\. Set it to the same"),
        (SEGMENTS, ["student.prediction_type=sample"], r"predicts v_prediction, and .* asks for sample"),
        (SEGMENTS, ["distill.objective.w_max=5"], r"\[1\.0, 4\.0\], and this one one for \[1\.0, 5\.0\]"),
        (
            (*CONSISTENCY, "distill.objective.steps=[4]"),
            ["student.prediction_type=sample", "distill.objective.steps=[4]"],
            "samples by the solver consistency; take a student of segments or progressive",
        ),
        (GUIDED, [], "makes any number of steps"),
        ((), [], "makes any number of steps"),
    ],
)
def test_another_start_is_refused_before_anything_is_made(
    tiny_text: str, runs: Path, tmp_path: Path, start: tuple[str, ...], more: list[str], message: str
) -> None:
    begun = tmp_path / "begun"
    if start == SEGMENTS:
        begun = runs / "few"
    else:
        distill(load_text(tiny_text, name="t", overrides=[*taught_by(runs / "teacher"), *start]), begun)
    recipe = matching(tiny_text, runs, *more, f"student.init={{kind: run, path: {begun}}}")
    problems = examine(recipe, tmp_path / "new").problems
    assert len(problems) == 1 and "\n" not in problems[0]
    with pytest.raises(UserError, match=message) as refused:
        distill(recipe, stages.open_run(tmp_path, "t"))
    assert str(refused.value) == problems[0]
    assert not (tmp_path / "t" / "student").exists()
