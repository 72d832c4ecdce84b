"""What a denoiser's interface says and does for its callers, and one branch behind the contract of two."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import nn
from wave_denoiser import Wave

from dashdeploy.diffusion.denoiser import TorchDenoiser
from dashdeploy.errors import UserError

RANGES = [(1.0, 4.0), (0.0, 1.0), (1.0, 2.0), (1.0, 1.5), (2.0, 9.0), (1.5, 1.6)]


@pytest.mark.parametrize(("guidance_range", "by"), list(product(RANGES, (0.5, 1.0))))
@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 0.9, 1.0])
def test_varied_scales_differ_between_neighbours_and_stay_in_the_range(
    guidance_range: tuple[float, float], by: float, share: float
) -> None:
    low, high = guidance_range
    w = torch.full((7,), low + share * (high - low))
    found = Wave(branches=1, guidance_range=guidance_range).interface.varied(w, by=by)
    assert bool(((found >= low) & (found <= high)).all())
    torch.testing.assert_close(found[0], w[0])  # the scale that is asked for is among them
    assert float(found[:3].max() - found[:3].min()) > 0.9 * min(by, (high - low) / 4)
    assert torch.equal(found[:3], found[3:6])


def test_a_scale_out_of_the_range_is_varied_from_its_nearest_end_and_two_branches_have_none() -> None:
    one = Wave(branches=1, guidance_range=(1.5, 4.0)).interface.varied(torch.ones(3))
    torch.testing.assert_close(one, torch.tensor([1.5, 2.125, 2.75]))
    assert Wave().interface.varied(torch.full((4,), 7.0)).tolist() == [7.0, 8.0, 9.0, 7.0]


class Asked(nn.Module):
    """Remembers its condition; gives as many channels as x has."""

    def forward(self, x: torch.Tensor, t: torch.Tensor, condition: object, return_dict: bool) -> tuple[torch.Tensor]:
        self.condition = condition
        return (x.half(),)


def test_one_branch_is_asked_with_its_labels_and_scales_and_has_no_branches() -> None:
    network = Asked()
    denoiser = TorchDenoiser(network, Wave(branches=1, guidance_range=(1.0, 4.0)).interface)
    x, t, y, w = torch.zeros(2, 1, 4, 4), torch.tensor([0, 5]), torch.tensor([1, 2]), torch.tensor([1.5, 3.0])
    assert denoiser.guided(x, t, y, w).dtype == torch.float32
    assert network.condition[0] is y and network.condition[1] is w
    denoiser(x, t, y)
    assert torch.equal(network.condition[1], torch.ones(2))
    with pytest.raises(UserError, match="this model has one branch: the guidance scale is an input of its network"):
        denoiser.branches(x, t, y)
