"""The measurement of responses, on models that are stubs."""

from __future__ import annotations

from types import SimpleNamespace as Stub
from typing import Any

import pytest
import torch

from dashdeploy.bench.measure import response
from dashdeploy.diffusion.sampling import Plan
from dashdeploy.metrics.gap import Probes


@pytest.mark.parametrize("latents", [True, False])
def test_targets_are_clipped_of_images_and_not_of_latents(monkeypatch: pytest.MonkeyPatch, latents: bool) -> None:
    asked: list[bool] = []

    def of_target(*args: Any, clip: bool, **more: Any) -> list[torch.Tensor]:
        asked.append(clip)
        return [torch.ones(2, 1, 2, 2)]

    probes = Probes(torch.ones(2, 1, 2, 2), torch.tensor([999, 999]), torch.zeros(2, dtype=torch.long))
    monkeypatch.setattr(response.gap, "draw_probes", lambda *args, **more: probes)
    monkeypatch.setattr(response, "plan_of", lambda *args: Plan((999,), (2.0,), clip_sample=False))
    monkeypatch.setattr(response.response, "of_model", lambda *args, **more: [torch.ones(2, 1, 2, 2)])
    monkeypatch.setattr(response.response, "of_target", of_target)
    interface = Stub(
        branches=1,
        base_scale=1.0,
        prediction="sample",
        schedule=None,
        consistency=False,
        grids=((999,),),
        guidance_range=(1.0, 4.0),
    )
    model: Any = Stub(denoiser=Stub(interface=interface), device="cpu")
    recipe: Any = Stub(
        bench=Stub(quality=Stub(guidance=(2.0,)), fidelity=Stub(num_pairs=2), seed=0, teacher_steps=2),
        sampling=Stub(guidance=2.0),
        data=Stub(holdout=0.1, gives_latents=latents),
    )
    data: Any = Stub(split=lambda share: (None, None))
    assert response.measure({"teacher": model, "student": model}, recipe, data) is not None
    assert asked == [not latents]
