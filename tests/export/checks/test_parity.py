from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from dashdeploy.errors import UserError
from dashdeploy.export.checks import parity
from dashdeploy.runtime.opening import open_path
from dashdeploy.target import ParityLimits
from dashdeploy.teachers import unet2d

LIMITS = ParityLimits(batch_sizes=(1, 3), t_bins=4)


@pytest.fixture(scope="module")
def student(tiny_run: Path):
    return unet2d.load(tiny_run / "student")


def test_the_exported_graph_follows_torch_at_every_batch_size_and_range_of_t(tiny_run: Path, student) -> None:
    with open_path(tiny_run / "artifacts" / "onnx-cpu", threads=1) as model:
        found = parity.check(model.denoiser, student, ParityLimits(), scale=2.0, seed=0)
    assert {(row.batch_size, row.t_low) for row in found.rows} == {
        (b, low) for b in (1, 3, 31, 65) for low in range(0, 1000, 100)
    }
    assert {row.branch for row in found.rows} == {"uncond", "cond", "guided"}
    assert 0 < found.worst.relative_error < 2e-5


def test_labels_and_guidance_are_per_image_in_the_graph(tiny_run: Path, student) -> None:
    x = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)).repeat(4, 1, 1, 1)
    t, y, w = torch.tensor([5, 900, 300, 300]), torch.tensor([0, 1, 2, 9]), torch.tensor([0.0, 1.0, 4.0, 4.0])
    with open_path(tiny_run, threads=1) as model, torch.no_grad():
        together = model.denoiser.guided(x, t, y, w)
        alone = torch.cat(
            [model.denoiser.guided(x[i : i + 1], t[i : i + 1], y[i : i + 1], w[i : i + 1]) for i in range(4)]
        )
        torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(together, student.guided(x, t, y, w), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("branch", ["uncond", "cond"])
def test_an_error_in_one_branch_alone_fails_parity(student, branch: str) -> None:
    broken = copy.deepcopy(student)
    row = student.interface.null_class if branch == "uncond" else slice(0, student.interface.null_class)
    with torch.no_grad():
        broken.unet.class_embedding.weight[row] += 0.5
    with pytest.raises(UserError, match="parity failed") as caught:
        parity.check(broken, student, LIMITS, scale=2.0, seed=0)
    assert "No artifact was written" in str(caught.value)


class Wrong:
    def __init__(self, inner, change) -> None:
        self.inner, self.change, self.interface = inner, change, inner.interface

    def guided(self, x, t, y, w):
        return self.change(self.inner.guided(x, t, y, w))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda eps: torch.where(eps > 0, torch.nan, eps), "NaN or Inf"),
        (torch.zeros_like, "constant output"),
        (lambda eps: eps[..., :-1], "shape"),
        (lambda eps: eps * 1.001, "relative error"),
        (lambda eps: eps[:1].expand_as(eps), "relative error"),
    ],
)
def test_bad_output_of_any_kind_fails_parity(student, change, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parity.check(Wrong(student, change), student, LIMITS, scale=2.0, seed=0)


def test_one_w_for_the_whole_batch_fails_parity(student) -> None:
    class OneW(Wrong):
        def guided(self, x, t, y, w):
            return self.inner.guided(x, t, y, w[:1].expand_as(w))

    with pytest.raises(UserError, match=r"guided branch at batch 3"):
        parity.check(OneW(student, None), student, LIMITS, scale=2.0, seed=0)
