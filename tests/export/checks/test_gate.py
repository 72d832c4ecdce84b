"""The guidance gate passes what is sound and refuses each kind of planted damage."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dashdeploy.diffusion.denoiser import Interface, TorchDenoiser
from dashdeploy.errors import UserError
from dashdeploy.export.checks import gate, trajectories, worst_layer
from dashdeploy.export.checks.verify import check_batches
from dashdeploy.export.graph import rewrite
from dashdeploy.recipe.schema import Sampling, Tag
from dashdeploy.runtime.onnxruntime_model import open_guided
from dashdeploy.target import GateLimits, ParityLimits, Target
from tests.export.conftest import export_graph
from tests.made import schedule


def test_draws_cover_all_of_t_both_halves_of_guidance_and_every_class(trained: TorchDenoiser) -> None:
    found = trajectories.draw(
        trained, Sampling(num_inference_steps=6, guidance=Tag()), num_images=20, num_points=3, seed=0
    )
    assert found.x_t.shape == (60, 1, 8, 8)
    assert sorted(set(found.t.tolist())) == [166, 666, 999]
    assert set(found.y.tolist()) == set(range(10))
    again = trajectories.draw(
        trained, Sampling(num_inference_steps=6, guidance=Tag()), num_images=20, num_points=3, seed=0
    )
    assert torch.equal(found.x_t, again.x_t)


@pytest.mark.slow
def test_float32_and_float16_graphs_pass(trained: TorchDenoiser, guided_onnx: Path, its_gate, tmp_path: Path) -> None:
    plain = its_gate.judge(open_guided(guided_onnx, trained.interface, threads=1), "fp32")
    assert plain.failures == () and plain.overall.relative_error < 1e-4
    half = export_graph(trained, "guided", tmp_path / "half.onnx", precision="fp16", opset=22)
    rung = its_gate.judge(open_guided(half, trained.interface, threads=1), "fp16")
    assert rung.failures == (), gate.table(rung)
    assert 1e-5 < rung.overall.relative_error < 0.05


class Swapped:
    """The two branches the wrong way round."""

    def __init__(self, inner: TorchDenoiser) -> None:
        self.inner, self.interface = inner, inner.interface

    def branches(self, x, t, y):
        uncond, cond = self.inner.branches(x, t, y)
        return cond, uncond


def test_swapped_branches_are_refused(trained, its_gate) -> None:
    rung = its_gate.judge(Swapped(trained), "swapped")
    assert any("gap cosine" in line for line in rung.failures)
    assert rung.overall.energy_cosine < -0.99


def test_a_null_class_off_by_one_is_refused(trained, its_gate) -> None:
    other = TorchDenoiser(trained.unet, Interface(9, trained.interface.image_shape, trained.interface.schedule))
    rung = its_gate.judge(other, "null class")
    assert any("uncond branch error" in line for line in rung.failures)
    assert rung.overall.cond_error < 1e-6


def test_a_frozen_batch_is_refused(trained) -> None:
    class Frozen:
        interface = trained.interface

        def branches(self, x, t, y):
            return trained.branches(x, t, y)

        def guided(self, x, t, y, w):
            return trained.guided(x[:4], t[:4], y[:4], w[:4])

    target = Target(name="t", description="d", precision="fp16", parity=ParityLimits(batch_sizes=(3, 5)))
    with torch.no_grad():
        check_batches(trained, trained, target, seed=0)
        with pytest.raises(UserError, match="at batch 5"):
            check_batches(Frozen(), trained, target, seed=0)


def test_one_guidance_scale_for_the_whole_batch_is_refused(trained) -> None:
    class OneW:
        interface = trained.interface

        def branches(self, x, t, y):
            return trained.branches(x, t, y)

        def guided(self, x, t, y, w):
            return trained.guided(x, t, y, w[:1].expand_as(w))

    target = Target(name="t", description="d", precision="fp16", parity=ParityLimits(batch_sizes=(1, 3)))
    with torch.no_grad(), pytest.raises(UserError, match="at batch 3"):
        check_batches(OneW(), trained, target, seed=0)


def test_float16_overflow_is_refused_and_its_layer_is_named(trained, its_gate, draws) -> None:
    # The same function in float32; in float16 what conv2 of the middle block gives is beyond 65504.
    loud = copy.deepcopy(trained)
    block = loud.unet.mid_block.resnets[0]
    with torch.no_grad():
        block.conv2.weight *= 1e6
        block.conv2.bias *= 1e6
        block.output_scale_factor = 1.0
    rewritten = rewrite.for_export(loud, group_norm="instance", precision="fp16")
    limits = its_gate.limits
    rung = gate.prepare(loud, draws[1], limits, scale=2.0).judge(rewritten, "fp16")
    assert rung.excess == float("inf") and "NaN or Inf" in rung.failures[0]
    layer, error = worst_layer.find(loud, rewritten, draws[1])
    assert layer == "mid_block.resnets.0.conv2" and error == float("inf")


@pytest.mark.parametrize(
    ("out", "what"),
    [
        (torch.tensor([float("nan"), 1.0]).repeat(2, 1, 1, 1), "NaN or Inf in 50.0 %"),
        (torch.zeros(2, 1, 2, 2), "all zero"),
        (torch.ones(2, 1, 2, 2), "constant"),
    ],
)
def test_unusable_outputs_are_named(out: torch.Tensor, what: str) -> None:
    assert what in gate.unusable(out, "cond")[0]
    assert gate.unusable(torch.randn(2, 1, 2, 2), "cond") == []


class AtZeroSnr:
    """A v student whose last timestep has no signal; there it may be broken, and nowhere else."""

    def __init__(self, how: Callable[[torch.Tensor], torch.Tensor] = lambda output: output) -> None:
        self.interface, self.how = Interface(3, (1, 4, 4), schedule(zero_snr=True), prediction="v_prediction"), how

    def __call__(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        output = torch.sin(3 * x + y.view(-1, 1, 1, 1) + t.view(-1, 1, 1, 1) / 300)
        return torch.where((t == 999).view(-1, 1, 1, 1), self.how(output), output)

    def branches(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self(x, t, torch.full_like(y, 3)), self(x, t, y)

    def guided(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        uncond, cond = self.branches(x, t, y)
        return uncond + w.view(-1, 1, 1, 1) * (cond - uncond)


@pytest.mark.parametrize(
    ("how", "failure"),
    [
        (lambda output: output.flip(-1), "uncond branch error"),
        (torch.zeros_like, "an output that is all zero"),
        (torch.ones_like, "a constant output"),
    ],
)
def test_damage_where_there_is_no_signal_is_seen_in_what_the_student_predicts(
    how: Callable[[torch.Tensor], torch.Tensor], failure: str
) -> None:
    # As eps it would not be: at zero SNR eps is x_t, whatever the student says.
    sound = AtZeroSnr()
    probes = trajectories.draw(
        sound, Sampling(num_inference_steps=4, guidance=2.0), num_images=16, num_points=4, seed=0
    )
    its = gate.prepare(sound, probes, GateLimits(t_bins=4), scale=2.0)
    assert its.judge(AtZeroSnr(), "sound").failures == ()
    assert any(failure in line for line in its.judge(AtZeroSnr(how), "broken").failures)
