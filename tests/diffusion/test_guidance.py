from __future__ import annotations

import pytest
import torch

from dashdeploy.diffusion import guidance
from dashdeploy.diffusion.sampling import timesteps
from dashdeploy.errors import UserError
from dashdeploy.recipe.schema import GuidanceInterval, Tag

X = torch.randn(3, 1, 2, 2, generator=torch.Generator().manual_seed(0))
T = torch.tensor([1, 2, 3])
Y = torch.tensor([0, 1, 2])


def by_label(x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """A model whose output tells its label and timestep."""
    return (y * 100 + t).float().view(-1, 1, 1, 1).expand_as(x)


def test_each_branch_gets_its_own_labels_from_one_call() -> None:
    calls = []

    def predict(x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        calls.append(len(x))
        return by_label(x, t, y)

    uncond, cond = guidance.both_branches(predict, X, T, Y, null_class=9)
    assert calls == [6]
    assert uncond[:, 0, 0, 0].tolist() == [901, 902, 903]
    assert cond[:, 0, 0, 0].tolist() == [1, 102, 203]


def test_w_zero_is_unconditional_and_one_is_off() -> None:
    uncond, cond = torch.randn_like(X), torch.randn_like(X)
    torch.testing.assert_close(guidance.combine(uncond, cond, torch.zeros(3)), uncond)
    torch.testing.assert_close(guidance.combine(uncond, cond, torch.ones(3)), cond)


def test_float64_stays_float64() -> None:
    uncond, cond = torch.randn_like(X).double(), torch.randn_like(X).double()
    combined = guidance.combine(uncond, cond, torch.full((3,), 2.5))
    assert combined.dtype == torch.float64
    torch.testing.assert_close(combined, 2.5 * cond - 1.5 * uncond, rtol=1e-14, atol=1e-14)


def test_guidance_is_per_image() -> None:
    uncond, cond = torch.zeros_like(X), torch.ones_like(X)
    combined = guidance.combine(uncond, cond, torch.tensor([0.0, 2.0, 4.0]))
    assert combined[:, 0, 0, 0].tolist() == [0, 2, 4]


def test_half_precision_branches_are_combined_in_float32() -> None:
    uncond, cond = torch.full_like(X, 1.0).half(), torch.full_like(X, 1.0009765625).half()
    combined = guidance.combine(uncond, cond, torch.full((3,), 7.0))
    assert combined.dtype == torch.float32
    assert float(combined[0, 0, 0, 0]) == pytest.approx(1 + 7 * 0.0009765625, abs=1e-7)


def test_tag_runs_from_1_25_to_3_77_over_fifty_steps_with_mean_2_5() -> None:
    # The published range of "w = 4" (arXiv:2606.00798).
    weights = [guidance.weight(Tag(), t, 1000) for t in timesteps(50, 1000, "leading")]
    assert weights[0] == pytest.approx(1.25, abs=0.01)
    assert weights[-1] == pytest.approx(3.77, abs=0.01)
    assert sum(weights) / 50 == pytest.approx(2.5, abs=0.05)


def test_guidance_is_read_from_a_command_line() -> None:
    assert guidance.parse("2.5") == 2.5
    assert guidance.parse("TAG") == Tag()
    assert guidance.label(2.0) == "w=2"


@pytest.mark.parametrize("text", ["strong", "-1", "nan", "inf", ""])
def test_other_guidance_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="guidance must be"):
        guidance.parse(text)


@pytest.mark.parametrize(("t", "w"), [(0, 1.0), (199, 1.0), (200, 3.0), (500, 3.0), (799, 3.0), (800, 1.0), (999, 1.0)])
def test_an_interval_guides_inside_only(t: int, w: float) -> None:
    assert guidance.weight(GuidanceInterval(w=3.0, low=0.2, high=0.8), t, 1000) == w


def test_an_interval_on_the_command_line_and_its_label() -> None:
    found = guidance.parse("3@0.2-0.8")
    assert found == GuidanceInterval(w=3.0, low=0.2, high=0.8)
    assert guidance.label(found) == "w=3 in 0.2–0.8"


@pytest.mark.parametrize("text", ["3@", "3@0.2", "3@0.8-0.2", "3@0.2-2", "@0.2-0.8", "3-0.2", "nan@0.1-0.2", "3@a-b"])
def test_a_malformed_interval_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UserError, match=r"an interval as in 3@0\.2-0\.8"):
        guidance.parse(text)
