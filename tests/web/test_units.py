"""The runtime's modules one by one, in Node: known answers that are written here by the Python package."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper

from dashdeploy.diffusion import noise, sampling
from tests.web import browsing
from tests.web.conftest import DIST

UNITS = Path(__file__).with_name("units.test.mjs")
BETAS = np.linspace(1e-4, 0.02, 1000).tolist()


def noises() -> list[dict[str, Any]]:
    cases = ((0, 0, 2, 7, 1), (7, 3, 1, 64, 1), (2**64 - 1, 2**40, 2, 5, 3), (12345678901234567890, 2**32 - 1, 3, 4, 2))
    return [
        {
            **{"seed": str(seed), "first": str(first), "count": count, "size": size, "steps": steps},
            "values": noise.normal(seed, first, count, size, steps=steps).ravel().tolist(),
        }
        for seed, first, count, size, steps in cases
    ]


def spacings() -> list[dict[str, Any]]:
    cases = [(n, total) for total in (20, 999, 1000, 4000) for n in (1, 2, 3, 7, 19, 20)] + [(333, 1000), (1000, 1000)]
    return [
        {"steps": n, "total": total, "spacing": spacing, "values": sampling.timesteps(n, total, spacing)}
        for n, total in cases
        for spacing in ("trailing", "leading", "linspace")
    ]


def updated(x: Any, output: Any, now: np.float32, after: np.float32, clip: bool, prediction: str) -> Any:
    """One DDIM update (Song et al. 2021, Eq. 12), each operation rounded to float32."""
    one = np.float32(1)
    signal, sigma = np.sqrt(now), np.sqrt(one - now)
    clean = {"epsilon": (x - sigma * output) / signal, "v_prediction": signal * x - sigma * output, "sample": output}
    x_0 = clean[prediction]
    eps = {"epsilon": output, "v_prediction": sigma * x + signal * output, "sample": (x - signal * x_0) / sigma}[
        prediction
    ]
    if clip:
        x_0 = np.clip(x_0, -one, one)
        eps = (x - signal * x_0) / sigma
    return np.sqrt(after) * x_0 + np.sqrt(one - after) * eps


def updates() -> list[dict[str, Any]]:
    """One update for each prediction, clipped and not; those of torch round otherwise in the last digit."""
    draws, made = np.random.default_rng(2), []
    bars = np.float32([1, *np.cumprod(1 - np.array(BETAS))])
    for prediction in ("epsilon", "v_prediction", "sample"):
        for clip, t, t_prev in ((True, 700, 300), (False, 999, 499), (True, 40, -1)):
            x, output = (draws.standard_normal(32).astype(np.float32) for _ in range(2))
            bar, bar_prev = bars[t + 1], bars[t_prev + 1]
            moved = updated(x, output, bar, bar_prev, clip, prediction)
            torchs = [torch.from_numpy(value) for value in (x, output)] + [torch.tensor(bar), torch.tensor(bar_prev)]
            close = sampling.ddim_step(*torchs, clip_sample=clip, prediction=prediction).numpy()
            assert moved.dtype == np.float32 and np.allclose(moved, close, atol=1e-6, rtol=1e-5)
            values = {"x": x.tolist(), "output": output.tolist(), "expected": moved.tolist()}
            made.append({**values, "betas": BETAS, "t": t, "tPrev": t_prev, "clip": clip, "prediction": prediction})
    return made


def model(operator: str = "Add", *, beside: str | None = None) -> bytes:
    """A small graph whose weight lies in it or beside it; a branch of an If holds another."""
    weight = helper.make_tensor("b", TensorProto.FLOAT, [2], [1.0, 2.0])
    if beside is not None:
        weight.ClearField("float_data")
        weight.data_location = TensorProto.EXTERNAL
        for key, value in (("location", beside), ("offset", "0"), ("length", "8")):
            entry = weight.external_data.add()
            entry.key, entry.value = key, value
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy")
    node = helper.make_node(operator, ["x", "b"], ["y"])
    return onnx.helper.make_model(helper.make_graph([node], "g", [x], [y], [weight])).SerializeToString()


def test_the_modules_give_the_known_answers(tmp_path: Path) -> None:
    models = [(model(), []), (model(beside="w.data"), ["w.data"]), (model(beside="../w"), ["../w"])]
    vectors = {
        **{"noise": noises(), "timesteps": spacings(), "updates": updates()},
        "models": [{"model": base64.b64encode(data).decode(), "files": files} for data, files in models],
        "device": base64.b64encode(model("EPContext")).decode(),
    }
    (tmp_path / "vectors.json").write_text(json.dumps(vectors))
    environment = {**os.environ, "DIST": str(DIST), "VECTORS": str(tmp_path / "vectors.json")}
    command = [browsing.node(), "--test", "--test-reporter=tap", str(UNITS)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr
    passed = next(line for line in done.stdout.splitlines() if line.startswith("# pass"))
    assert int(passed.split()[-1]) == UNITS.read_text().count('\ntest("')
