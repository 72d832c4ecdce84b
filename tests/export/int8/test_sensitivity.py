"""The search leaves the fewest worst layers in float, or names the worst."""

from __future__ import annotations

from pathlib import Path

import pytest

from dashdeploy.errors import UserError
from dashdeploy.export.checks import gate
from dashdeploy.export.int8 import quantize, sensitivity
from dashdeploy.target import GateLimits
from tests.export.conftest import opened
from tests.limits import LOOSE


def test_the_search_leaves_the_fewest_worst_layers_in_float(trained, calibrated, draws, tmp_path: Path) -> None:
    layers = [layer for layer in calibrated.layers if layer not in quantize.ALWAYS_FLOAT][-6:]

    def build(chosen):
        model = quantize.quantize(calibrated, layers=chosen, symmetric=False)
        return opened(model, tmp_path / "trial.onnx", trained.interface)

    whole = gate.prepare(trained, draws[1], GateLimits(t_bins=4), scale=2.0)
    all_six = whole.judge(build(layers), "int8")
    between = GateLimits(
        **{**LOOSE.model_dump(), "gap_relative_error": all_six.overall.relative_error * 0.9, "gap_cosine": 0.5}
    )
    limited = gate.prepare(trained, draws[1], between, scale=2.0)
    found = sensitivity.search(layers, build, limited, most=4)
    assert 1 <= len(found.float_layers) <= 4
    assert list(found.damage.values()) == sorted(found.damage.values(), reverse=True)
    assert found.float_layers == list(found.damage)[: len(found.float_layers)]
    assert found.rung.failures == ()
    strict = gate.prepare(trained, draws[1], GateLimits(t_bins=4, gap_relative_error=1e-6), scale=2.0)
    with pytest.raises(UserError, match=r"(?s)guidance gate failed at int8.*The worst layer is [a-z_.0-9]+: by itself"):
        sensitivity.search(layers, build, strict, most=0)
