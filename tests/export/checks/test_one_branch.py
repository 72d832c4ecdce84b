"""The checks of a student of one branch refuse each kind of planted damage to how it takes its guidance scale."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch

from dashdeploy.diffusion.denoiser import Interface, TorchDenoiser
from dashdeploy.diffusion.grids import grids
from dashdeploy.diffusion.sampling import plan
from dashdeploy.errors import UserError
from dashdeploy.export.checks import gate, parity, sampling_check, worst_layer
from dashdeploy.export.checks.verify import check_batches
from dashdeploy.export.graph import rewrite, sampler_graph
from dashdeploy.figures import Rung
from dashdeploy.metrics.gap import Probes
from dashdeploy.recipe.schema import Sampling, Tag
from dashdeploy.target import GateLimits, ParityLimits, Target
from dashdeploy.teachers import guidance_embedding
from tests.export.conftest import export_graph

SAMPLING = Sampling(num_inference_steps=4, guidance=2.0, clip_sample=False)
HALF = Target(
    name="t",
    description="d",
    precision="fp16",
    gate=GateLimits(num_draws=48),
    parity=ParityLimits(batch_sizes=(1, 3)),
)
How = Callable[[torch.Tensor], torch.Tensor]


def one_branch(trained: TorchDenoiser, loudness: float) -> TorchDenoiser:
    """The trained teacher as a few-step student of one branch, whose embedding of w is that loud."""
    network = guidance_embedding.add(copy.deepcopy(trained.unet), (1.0, 4.0))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        last = network.class_embedding.scale[2]
        last.weight.copy_(torch.randn(last.weight.shape, generator=generator) * loudness)
    shape, schedule = trained.interface.image_shape, trained.interface.schedule
    interface = Interface(
        10, shape, schedule, prediction="v_prediction", branches=1, guidance_range=(1.0, 4.0), grids=grids([4], 1000)
    )
    return TorchDenoiser(network.eval(), interface)


class Damaged:
    """A student that takes w otherwise."""

    def __init__(self, inner: TorchDenoiser, how: How) -> None:
        self.inner, self.interface, self.how = inner, inner.interface, how

    def guided(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return self.inner.guided(x, t, y, self.how(w))


DAMAGE: dict[str, How] = {
    "w is ignored": torch.ones_like,
    "w is off by one": lambda w: w + 1,
    "w of the first image for all": lambda w: w[:1].expand_as(w),
    "w beyond 2.5 has no effect": lambda w: w.clamp(max=2.5),
}


@pytest.fixture(scope="module")
def student(trained: TorchDenoiser) -> TorchDenoiser:
    return one_branch(trained, 0.3)


@pytest.fixture(scope="module")
def its_gate(student: TorchDenoiser) -> gate.Gate:
    return gate.for_target(student, SAMPLING, HALF, seed=0)


def rounded(student: TorchDenoiser, bits: int) -> TorchDenoiser:
    """The weights of its embedding of w, one scale for each tensor."""
    coarse = copy.deepcopy(student)
    with torch.no_grad():
        for layer in (coarse.unet.class_embedding.scale[0], coarse.unet.class_embedding.scale[2]):
            unit = layer.weight.abs().max() / (2 ** (bits - 1) - 1)
            layer.weight.copy_((layer.weight / unit).round() * unit)
    return coarse


def judged(its: gate.Gate, denoiser: Damaged | TorchDenoiser) -> Rung:
    with torch.no_grad():
        return its.judge(denoiser, "trial")


@pytest.mark.parametrize("damage", DAMAGE)
def test_the_gate_refuses_it(student: TorchDenoiser, its_gate: gate.Gate, damage: str) -> None:
    assert judged(its_gate, student).failures == ()
    rung = judged(its_gate, Damaged(student, DAMAGE[damage]))
    assert any("gap" in line for line in rung.failures), rung.failures


@pytest.mark.parametrize("damage", DAMAGE)
def test_parity_refuses_it(student: TorchDenoiser, damage: str) -> None:
    limits = ParityLimits(batch_sizes=(3,), t_bins=1)
    with torch.no_grad():
        parity.check(student, student, limits, scale=2.0, seed=0)
    with pytest.raises(UserError, match="parity failed"):
        parity.check(Damaged(student, DAMAGE[damage]), student, limits, scale=2.0, seed=0)


def test_one_scale_for_a_batch_is_seen_where_it_changes_little(trained: TorchDenoiser) -> None:
    # By its size beside the output it passes: the response is what it is measured by.
    quiet = one_branch(trained, 0.01)
    broken = Damaged(quiet, DAMAGE["w of the first image for all"])
    with torch.no_grad():
        check_batches(broken, quiet, HALF, seed=0)
    rung = judged(gate.for_target(quiet, SAMPLING, HALF, seed=0), broken)
    assert rung.overall.guided_error < 0.03 and any("gap relative error" in line for line in rung.failures)


def test_an_embedding_of_the_scale_that_is_rounded_is_refused_once_it_costs_what_the_limits_say(
    student: TorchDenoiser, its_gate: gate.Gate
) -> None:
    errors = {bits: judged(its_gate, rounded(student, bits)).overall.relative_error for bits in (8, 5, 3, 2)}
    assert errors[8] < 0.02 < errors[5] < errors[3] < errors[2]
    assert judged(its_gate, rounded(student, 8)).failures == ()
    assert judged(its_gate, rounded(student, 3)).failures != ()
    with pytest.raises(UserError, match="parity failed"):
        parity.check(
            Damaged(rounded(student, 8), lambda w: w),
            student,
            ParityLimits(batch_sizes=(3,), t_bins=2),
            scale=2.0,
            seed=0,
        )


@pytest.mark.parametrize(
    ("guidance_range", "expected"),
    [((1.0, 4.0), {2.0, 4.0, 2.5}), ((0.0, 4.0), {2.0, 4.0, 0.0}), ((1.5, 6.0), {2.0, 6.0, 3.75})],
)
def test_every_third_trajectory_is_judged_at_the_recipes_scale_and_the_others_over_the_range(
    student: TorchDenoiser, guidance_range: tuple[float, float], expected: set[float]
) -> None:
    points = torch.arange(12).repeat(4)
    probes = Probes(torch.zeros(48, 1, 8, 8), torch.arange(48), torch.zeros(48, dtype=torch.int64), points)
    interface = replace(student.interface, guidance_range=guidance_range)
    w = gate.asked(interface, 2.0, probes)
    assert set(w.tolist()) == expected and w.dtype == torch.float32
    assert torch.equal(w[:12], w[12:24]), "a trajectory has one scale"
    assert {float(v) for v in gate.asked(interface, Tag(), probes)[1:3]} == expected - {2.0}


def test_the_worst_layer_of_one_branch_is_that_of_its_response(student: TorchDenoiser, its_gate: gate.Gate) -> None:
    loud = copy.deepcopy(student)
    with torch.no_grad():
        loud.unet.class_embedding.scale[0].weight *= 1e6
    rewritten = rewrite.for_export(loud, group_norm="instance", precision="fp16")
    layer, error = worst_layer.find(loud, rewritten, its_gate.probes)
    assert layer == "class_embedding.scale.0" and error == float("inf")


@pytest.mark.slow
def test_a_sampler_graph_whose_timesteps_are_off_by_one_is_refused(student: TorchDenoiser, tmp_path: Path) -> None:
    step = onnx.load(export_graph(student, "step", tmp_path / "step.onnx"))
    timesteps = plan(SAMPLING, 1000, grids=student.interface.grids).timesteps
    alpha_bar = student.interface.schedule.alphas_cumprod_from_clean.numpy()
    told = r"the sampler graph steps at .* and its plan at 999, 749, 499, 249"
    for form, solver in itertools.product(("loop", "unrolled"), ("ddim", "consistency")):
        renoise = alpha_bar if solver == "consistency" else None
        whole = sampler_graph.assemble(step, timesteps, form=form, renoise=renoise)
        sampling_check.require_timesteps(whole, timesteps, solver=solver)
        with pytest.raises(UserError, match=told):
            sampling_check.require_timesteps(whole, timesteps, solver="ddim" if renoise is not None else "consistency")
        for shift in (-1, 1):
            moved = [min(999, t + shift) for t in timesteps]
            whole = sampler_graph.assemble(step, moved, form=form, renoise=renoise)
            with pytest.raises(UserError, match=told):
                sampling_check.require_timesteps(whole, timesteps, solver=solver)
