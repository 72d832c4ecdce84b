"""The draws that int8 is calibrated on, and searched on, are not those that the gate judges."""

from __future__ import annotations

import torch

from dashdeploy.export.checks import gate
from dashdeploy.export.int8 import decide
from dashdeploy.recipe.schema import Sampling, Tag
from dashdeploy.target import Calibration, Engine, GateLimits, Profile, Target


def test_the_gate_draws_along_other_trajectories_than_calibration_and_search(trained) -> None:
    sampling = Sampling(num_inference_steps=4, guidance=Tag())
    target = Target(
        name="t",
        description="d",
        backend="tensorrt",
        precision="int8",
        opset=20,
        calibration=Calibration(num_images=4, num_steps=2),
        engine=Engine(profiles=(Profile(min=1, opt=2, max=8),)),
        gate=GateLimits(num_draws=32, t_bins=4),
    )
    draws = decide.draw(trained, sampling, target, seed=0)
    judged = gate.for_target(trained, sampling, target, seed=0)
    searched = gate.for_target(trained, sampling, target, seed=0, search=True)
    assert (len(draws.probes.t), len(judged.probes.t)) == (8, 32)
    seen = {bytes(x.numpy().tobytes()) for x in (*draws.probes.x_t, *searched.probes.x_t)}
    assert not any(bytes(x.numpy().tobytes()) in seen for x in judged.probes.x_t)
    assert judged.margin == 1 < searched.margin
    assert judged.batch_size == 8  # what the engine accepts
    assert 1 < draws.scale < 4  # TAG's, between its ends
    again = decide.draw(trained, sampling, target, seed=0)
    assert torch.equal(again.probes.x_t, draws.probes.x_t)


def test_a_reader_gives_each_graph_its_inputs(draws) -> None:
    feeds = decide.Draws(draws[0], 2.0, 10).reader("cond").get_next()
    assert feeds is not None and list(feeds) == ["x", "t", "y"]
    assert set(feeds["y"]) >= {10}, "one branch by itself sees both kinds of label"
