"""The response to guidance, of two branches and of one, beside what the teacher does in the same step."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from dashdeploy.diffusion import guidance, guided_targets
from dashdeploy.diffusion.denoiser import Interface
from dashdeploy.diffusion.sampling import Plan, dpmpp_2m
from dashdeploy.metrics import gap, response
from dashdeploy.recipe.schema import Prediction
from tests.made import schedule

GRID = (999, 499)
ENDS = {999: 499, 499: -1}
N = 12


class Teacher:
    """Two branches in closed form, within the range of images."""

    def __init__(self, prediction: Prediction = "sample") -> None:
        self.interface = Interface(3, (1, 4, 4), schedule(), prediction=prediction)

    def __call__(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.branches(x, t, y)[1]

    def branches(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        null = 0.2 * torch.sin(x + t.view(-1, 1, 1, 1) / 100)
        return null, null + 0.1 * torch.cos(x * (1 + y.view(-1, 1, 1, 1)))

    def guided(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return guidance.combine(*self.branches(x, t, y), w)


class OneBranch(Teacher):
    """The same as a model of one branch."""

    def __init__(self, low: float = 1.0) -> None:
        super().__init__()
        self.interface = replace(self.interface, branches=1, guidance_range=(low, 4.0))

    def guided(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        low, high = self.interface.guidance_range
        assert bool(((w >= low) & (w <= high)).all()), "it was asked out of its range"
        return super().guided(x, t, y, w)


@pytest.fixture
def probes() -> gap.Probes:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(N, 1, 4, 4, generator=generator)
    return gap.Probes(x, torch.tensor(GRID).repeat(N // 2), torch.arange(N) % 3)


@pytest.mark.parametrize("base", [1.0, 1.5])
def test_one_branch_and_two_respond_alike_and_in_proportion_to_the_scale(probes: gap.Probes, base: float) -> None:
    given = {"base": base, "prediction": "sample"}
    two = response.of_model(Teacher(), probes, [2.0, 4.0], **given)
    one = response.of_model(OneBranch(base), probes, [2.0, 4.0], **given)
    uncond, cond = Teacher().branches(probes.x_t, probes.t, probes.y)
    for w, a, b in zip((2.0, 4.0), two, one, strict=True):
        torch.testing.assert_close(a, (w - base) * (cond - uncond))
        torch.testing.assert_close(b, a, rtol=0, atol=1e-5)


def test_the_target_in_no_steps_is_the_clipped_output(probes: gap.Probes) -> None:
    loud = Teacher()
    loud.branches = lambda x, t, y: (torch.full_like(x, 0.5), torch.full_like(x, 0.8))  # type: ignore[method-assign]
    found = response.of_target(loud, probes, [1.5, 4.0], base=1.0, prediction="sample", clip=True)
    torch.testing.assert_close(found[0], torch.full_like(probes.x_t, 0.15))
    torch.testing.assert_close(found[1], torch.full_like(probes.x_t, 0.2))  # 1.7 is cut to 1


def test_a_few_step_target_is_where_the_guided_teachers_own_sampler_lands(probes: gap.Probes) -> None:
    # From 499 to clean the x_0 that lands is the image itself.
    at = probes.t == 499
    last = gap.Probes(probes.x_t[at], probes.t[at], probes.y[at])
    (found,) = response.of_target(Teacher(), last, [3.0], base=1.0, prediction="sample", clip=True, ends=ENDS, steps=2)
    images = [
        dpmpp_2m(Teacher(), last.x_t, last.y, Plan((499, 249), (w, w), clip_sample=True, solver="dpmpp_2m"))
        for w in (3.0, 1.0)
    ]
    torch.testing.assert_close(found, images[0] - images[1], rtol=1e-4, atol=1e-4)
    # It is not the gap's.
    (of_gap,) = response.of_model(Teacher(), last, [3.0], base=1.0, prediction="sample")
    assert gap.relative_error(found, of_gap) > 0.1


def test_a_perfect_few_step_student_is_perfect_beside_its_target_and_not_beside_the_gap(probes: gap.Probes) -> None:
    target = response.of_target(
        Teacher("epsilon"), probes, [2.0], base=1.0, prediction="v_prediction", clip=True, ends=ENDS, steps=4
    )[0]
    of_gap = response.of_model(Teacher("epsilon"), probes, [2.0], base=1.0, prediction="v_prediction")[0]
    assert gap.likeness(target.double(), target.double())["energy_cosine"] == pytest.approx(1)
    assert gap.likeness(target.double(), of_gap.double())["energy_cosine"] < 0.9


def test_the_path_of_a_consistency_student_goes_to_the_clean_image_from_every_timestep(probes: gap.Probes) -> None:
    (found,) = response.of_target(
        Teacher(), probes, [3.0], base=1.0, prediction="sample", clip=True, ends={999: -1, 499: -1}, steps=2
    )
    at = probes.t == 999
    first = gap.Probes(probes.x_t[at], probes.t[at], probes.y[at])
    images = [
        dpmpp_2m(Teacher(), first.x_t, first.y, Plan((999, 499), (w, w), clip_sample=True, solver="dpmpp_2m"))
        for w in (3.0, 1.0)
    ]
    torch.testing.assert_close(found[at], images[0] - images[1], rtol=1e-3, atol=1e-3)


def test_a_student_that_predicts_its_target_of_latents_is_perfect(probes: gap.Probes) -> None:
    class Loud(Teacher):
        def branches(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return tuple(3 * one for one in super().branches(x, t, y))  # type: ignore[return-value]

    class Perfect(OneBranch):
        def guided(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
            s = torch.tensor([ENDS[one] for one in t.tolist()])
            # As training gives it of latents.
            return guided_targets.target(Loud(), x, t, s, y, w, steps=3, clip=False, prediction="sample")

    given = {"base": 1.0, "prediction": "sample"}
    (found,) = response.of_model(Perfect(), probes, [4.0], **given)
    (target,) = response.of_target(Loud(), probes, [4.0], **given, clip=False, ends=ENDS, steps=3)
    likeness = gap.likeness(found.double(), target.double())
    assert (likeness["energy_cosine"], likeness["rho"]) == (pytest.approx(1), pytest.approx(1))
    assert likeness["relative_error"] == pytest.approx(0, abs=1e-6)
    (clipped,) = response.of_target(Loud(), probes, [4.0], **given, clip=True, ends=ENDS, steps=3)
    assert gap.relative_error(found, clipped) > 0.1
