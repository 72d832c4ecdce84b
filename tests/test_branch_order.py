"""Only guidance.py knows the branch order and the combination: changed there, nothing else may notice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dashdeploy.bench.measure.latency import TwoPass
from dashdeploy.data import load_dataset
from dashdeploy.diffusion import guidance
from dashdeploy.diffusion.denoiser import TorchDenoiser
from dashdeploy.errors import UserError
from dashdeploy.export.checks import parity, verify, worst_layer
from dashdeploy.export.graph import graphs, rewrite
from dashdeploy.export.int8 import quantize
from dashdeploy.metrics import gap
from dashdeploy.objectives.base import Batch
from dashdeploy.objectives.guided import Composite, MultiW
from dashdeploy.target import ParityLimits, load_target
from dashdeploy.teachers import formats
from dashdeploy.training.batches import FreshDraws
from dashdeploy.training.hints import middle_features


@pytest.fixture
def teacher(tiny_run: Path) -> TorchDenoiser:
    return formats.load(tiny_run / "teacher", role="teacher").eval()


@pytest.fixture
def batch(teacher: TorchDenoiser, tiny_recipe) -> Batch:
    data = load_dataset(tiny_recipe.data)
    return FreshDraws(data, teacher.interface.schedule, batch_size=6, seed=1, teacher=teacher).draw(0)


def conditional_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other order: [cond, uncond]."""

    def stack(
        x: torch.Tensor, t: torch.Tensor, y: torch.Tensor, *, null_class: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return torch.cat([x, x]), torch.cat([t, t]), torch.cat([y, torch.full_like(y, null_class)])

    def split(stacked: torch.Tensor, batch_size: int) -> tuple[torch.Tensor, torch.Tensor]:
        return stacked[batch_size:], stacked[:batch_size]

    monkeypatch.setattr(guidance, "stack", stack)
    monkeypatch.setattr(guidance, "split", split)


def probes_of(batch: Batch) -> gap.Probes:
    return gap.Probes(batch.x_t, batch.t, batch.y)


def branches(teacher: TorchDenoiser, batch: Batch, recipe: Any) -> Any:
    return teacher.branches(batch.x_t, batch.t, batch.y)


def guided_graph(teacher: TorchDenoiser, batch: Batch, recipe: Any) -> Any:
    rewritten = rewrite.for_export(teacher, group_norm="instance", precision="fp32")
    both = graphs.Network(rewritten)(*graphs.Stack(teacher.interface)(batch.x_t, batch.t, batch.y))
    return graphs.Combine()(both, torch.full(batch.y.shape, 3.0))


def features(teacher: TorchDenoiser, batch: Batch, recipe: Any) -> Any:
    data = load_dataset(recipe.data)
    source = FreshDraws(
        data, teacher.interface.schedule, batch_size=6, seed=1, teacher=teacher, features=middle_features
    )
    return source.complete(source.draw(0)).teacher_features


def calibration(teacher: TorchDenoiser, batch: Batch, recipe: Any) -> Any:
    """The one-branch graph's inputs; as a set, for the quantizer does not care for their order."""
    reader = quantize.Reader(probes_of(batch), ("x", "t", "y"), null_class=teacher.interface.null_class, scale=2.0)
    feeds = reader.get_next()
    assert feeds is not None
    rows = [(int(y), int(t), float(x.sum())) for x, t, y in zip(feeds["x"], feeds["t"], feeds["y"], strict=True)]
    return torch.tensor(sorted(rows))


def layer(teacher: TorchDenoiser, batch: Batch, recipe: Any) -> Any:
    rewritten = rewrite.for_export(teacher, group_norm="instance", precision="bf16")
    name, error = worst_layer.find(teacher, rewritten, probes_of(batch))
    return torch.tensor([error, float(sum(map(ord, name)))])


@pytest.mark.parametrize("result", [branches, guided_graph, features, calibration, layer])
def test_another_branch_order_changes_no_result(
    teacher: TorchDenoiser, batch: Batch, tiny_recipe, monkeypatch: pytest.MonkeyPatch, result: Callable[..., Any]
) -> None:
    with torch.no_grad():
        before = result(teacher, batch, tiny_recipe)
        conditional_first(monkeypatch)
        after = result(teacher, batch, tiny_recipe)
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)


def test_what_a_forward_gives_before_it_is_taken_apart_does_change(
    teacher: TorchDenoiser, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tests above could not fail if the order did not matter to the network."""

    def raw() -> torch.Tensor:
        stacked = guidance.stack(batch.x_t, batch.t, batch.y, null_class=teacher.interface.null_class)
        return teacher(*stacked)

    with torch.no_grad():
        before = raw()
        conditional_first(monkeypatch)
        assert not torch.allclose(raw(), before)


def marked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another combination: everything that combines by guidance.combine gives 7."""
    monkeypatch.setattr(guidance, "combine", lambda uncond, cond, w: torch.full_like(cond, 7.0))


@pytest.mark.parametrize("kind", ["denoiser", "two passes"])
def test_whatever_predicts_with_guidance_combines_there(
    teacher: TorchDenoiser, batch: Batch, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    marked(monkeypatch)
    model = teacher if kind == "denoiser" else TwoPass(teacher)
    with torch.no_grad():
        assert (model.guided(batch.x_t, batch.t, batch.y, torch.ones(len(batch.y))) == 7).all()


def test_objectives_of_the_guided_output_combine_there(
    teacher: TorchDenoiser, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    marked(monkeypatch)
    with torch.no_grad():
        uncond, cond = teacher.branches(batch.x_t, batch.t, batch.y)
    held = Batch(**{**vars(batch), "teacher_uncond": uncond, "teacher_cond": cond})
    for config in (Composite(), MultiW()):
        terms = config.terms(teacher, held)
        assert (terms["guided"].value == 0).all()  # 7 on both sides


def test_the_guided_error_is_of_that_combination(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    ours, theirs = (tuple(torch.randn(batch.x_t.shape, generator=generator) for _ in range(2)) for _ in range(2))
    marked(monkeypatch)
    overall, _ = gap.fidelity(ours, theirs, probes_of(batch), scale=2.0, num_train_timesteps=1000, bins=2)
    assert overall.guided_error == 0 and overall.relative_error > 0.5


def test_an_artifact_is_held_to_that_combination(teacher: TorchDenoiser, monkeypatch: pytest.MonkeyPatch) -> None:
    target = load_target("onnx-cpu")
    limits = ParityLimits(batch_sizes=(1,), t_bins=2)

    class Artifact:
        """Guided outputs as they were before the combination was changed."""

        interface = teacher.interface
        branches = staticmethod(teacher.branches)
        combine = staticmethod(guidance.combine)

        def guided(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
            return self.combine(*teacher.branches(x, t, y), w)

    with torch.no_grad():
        verify.check_batches(Artifact(), teacher, target, seed=0)
        parity.check(Artifact(), teacher, limits, scale=2.0, seed=0)
        marked(monkeypatch)
        with pytest.raises(UserError, match="guided output is not"):
            verify.check_batches(Artifact(), teacher, target, seed=0)
        with pytest.raises(UserError, match="guided"):
            parity.check(Artifact(), teacher, limits, scale=2.0, seed=0)
    assert np.isfinite(target.gate.guided_error)
