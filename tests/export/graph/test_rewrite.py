"""The rewrites compute what the network computed, in the precision that was asked for."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dashdeploy.export import describe
from dashdeploy.export.graph import rewrite


@pytest.mark.parametrize("shape", [(3, 8, 4, 4), (2, 8, 16)])
def test_group_norm_as_instance_norm_has_the_same_values(shape: tuple[int, ...]) -> None:
    norm = nn.GroupNorm(4, 8)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 3 + 1
    torch.testing.assert_close(rewrite.InstanceGroupNorm(norm)(x), norm(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", ["native", "instance"])
@pytest.mark.parametrize(("precision", "worst"), [("fp32", 1e-5), ("fp16", 5e-3), ("bf16", 5e-2)])
def test_a_rewritten_network_follows_the_original(trained, draws, form, precision: str, worst: float) -> None:
    other = rewrite.for_export(trained, group_norm=form, precision=precision)
    part = slice(0, 16)
    x, t, y = draws[0].x_t[part], draws[0].t[part], draws[0].y[part]
    with torch.no_grad():
        expected = torch.cat(trained.branches(x, t, y))
        found = torch.cat(other.branches(x, t, y))
    assert found.dtype == torch.float32
    error = float((found - expected).norm() / expected.norm())
    assert error < worst
    if precision != "fp32":
        assert error > 1e-5, "nothing was computed in half"
        kinds = {p.dtype for n, p in other.unet.named_parameters() if "conv" in n and "norm" not in n}
        assert kinds == {rewrite.DTYPES[precision]}
        assert {p.dtype for n, p in other.unet.named_parameters() if "norm" in n} == {torch.float32}


def test_the_original_is_left_as_it_was(trained) -> None:
    before = {name: value.clone() for name, value in trained.state_dict().items()}
    rewrite.for_export(trained, group_norm="instance", precision="fp16")
    after = trained.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)
    assert any(isinstance(m, nn.GroupNorm) for m in trained.modules())


def test_the_time_table_holds_every_timestep_exactly(trained) -> None:
    table = rewrite.TimeTable(trained.unet, 1000)
    t = torch.tensor([0, 1, 257, 999])
    with torch.no_grad():
        expected = trained.unet.time_embedding(trained.unet.time_proj(t))
    torch.testing.assert_close(table(t), expected, rtol=1e-6, atol=1e-6)


def test_multiply_adds_are_those_of_a_convolution_by_hand(trained) -> None:
    class One(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 6, 3, padding=1)
            self.interface = trained.interface

        def guided(self, x, t, y, w):
            return self.conv(torch.cat([x, x]))

    assert describe.macs(One()) == 2 * 8 * 8 * 6 * 9
