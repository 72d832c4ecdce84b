"""The library in Node: the images and plans of the Python runtime, its refusals, progress and cancellation."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import dashdeploy
from dashdeploy.diffusion import guidance, sampling
from dashdeploy.recipe.schema import Guidance, GuidanceInterval, Tag
from dashdeploy.runtime.model import Model
from dashdeploy.runtime.opening import open_path
from tests.web.conftest import Answers

pytestmark = pytest.mark.slow

LABELS = list(range(10))
TAG, INTERVAL = Tag(w_min=0.5, w_max=4.0, beta=9.0), GuidanceInterval(w=5.0, low=0.2, high=0.8)
Ask = Callable[..., Answers]


def images_of(answer: dict[str, Any]) -> NDArray[np.float32]:
    assert "data" in answer, answer
    return np.frombuffer(base64.b64decode(answer["data"]), np.float32).reshape(answer["shape"])


def by_python(model: Model, *, w: Guidance | None, seed: int, steps: int | None, first: int = 0) -> NDArray[np.float32]:
    """The images of `LABELS`, as floats."""
    interface = model.denoiser.interface
    how = model.sampling.model_copy(update={"num_inference_steps": steps or model.sampling.num_inference_steps})
    run = sampling.plan(how, interface.schedule.num_train_timesteps, scale=w, grids=interface.grids)
    noise = sampling.initial_noise(seed, first, len(LABELS), interface.noise_shape(run))
    return model.sample(noise, torch.tensor(LABELS), run).numpy()


CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "guided": ({"w": 3, "seed": 7}, {"w": 3.0, "seed": 7}),
    "as the recipe says": ({}, {}),
    "without guidance, by the cond graph": ({"w": 1, "seed": 2}, {"w": 1.0, "seed": 2}),
    "tag": ({"guidance": TAG.model_dump(), "steps": 7}, {"w": TAG, "steps": 7}),
    "interval": ({"guidance": INTERVAL.model_dump(), "steps": 9}, {"w": INTERVAL, "steps": 9}),
    "the largest seed": ({"seed": str(2**64 - 1)}, {"seed": 2**64 - 1}),
    "later images": ({"firstImage": 2**40, "seed": 1}, {"first": 2**40, "seed": 1}),
}


def test_the_images_are_those_of_the_python_runtime(artifact: Path, in_node: Ask) -> None:
    answers = in_node(artifact, *({"sample": {"labels": LABELS, **asked}} for asked, _ in CASES.values()), maxBatch=3)
    with open_path(artifact, threads=1) as model:
        for (name, (_, known)), answer in zip(CASES.items(), answers, strict=True):
            expected = by_python(model, **{"w": None, "seed": 0, "steps": None, **known})
            assert images_of(answer).shape == expected.shape == (10, 1, 8, 8)
            assert np.abs(images_of(answer) - expected).max() < 1e-3, name


def test_they_are_those_of_the_public_door(artifact: Path, in_node: Ask) -> None:
    (answer,) = in_node(artifact, {"sample": {"labels": LABELS, "w": 3, "seed": 7}})
    with dashdeploy.open(artifact, threads=1) as model:
        expected = model.sample(LABELS, guidance=3, seed=7)
    ours = np.clip(np.rint((images_of(answer) + 1) * 127.5), 0, 255).transpose(0, 2, 3, 1)
    assert np.abs(ours - expected).max() <= 1


def test_noise_of_the_caller_s_is_taken(artifact: Path, in_node: Ask) -> None:
    noise = np.random.default_rng(5).standard_normal((10, 1, 8, 8)).astype(np.float32)
    sent = base64.b64encode(noise.tobytes()).decode()
    (answer,) = in_node(artifact, {"sample": {"labels": LABELS, "w": 2}, "noise": sent})
    with open_path(artifact, threads=1) as model:
        run = sampling.plan(model.sampling, 1000, scale=2.0)
        expected = model.sample(torch.from_numpy(noise), torch.tensor(LABELS), run).numpy()
    assert np.abs(images_of(answer) - expected).max() < 1e-3


@pytest.mark.parametrize("scale", [3.0, TAG, INTERVAL], ids=["constant", "tag", "interval"])
def test_plans_are_those_of_the_python_runtime(artifact: Path, in_node: Ask, scale: Guidance) -> None:
    asked = {"w": scale} if isinstance(scale, float) else {"guidance": scale.model_dump()}
    counts = [1, 2, 3, 7, 50, 333, 1000]
    answers = in_node(artifact, *({"plan": {"steps": n, **asked}} for n in counts))
    for n, plan in zip(counts, answers, strict=True):
        expected = sampling.timesteps(n, 1000, "trailing")
        assert plan["t"] == expected and plan["tPrev"] == [*expected[1:], -1]
        weights = [guidance.weight(scale, t, 1000) for t in expected]
        assert np.array_equal(np.float32(plan["w"]), np.float32(weights))


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no labels": ({"labels": []}, "count is 0; expected 1 ... "),
    "a label past the classes": ({"labels": [0, 10]}, "labels[1] is 10; the artifact has the classes 0 ... 9"),
    "half a label": ({"labels": [0.5]}, "labels[0] is 0.5; the artifact has the classes 0 ... 9"),
    "a negative scale": ({"w": -1}, "guidance: w is -1; expected a number >= 0 (1 = off)"),
    "a scale that is none": ({"w": "NaN"}, "guidance: w is nan; expected a number >= 0 (1 = off)"),
    "two scales": ({"w": 1, "schedule": [1, 1, 1, 1]}, "give one of w, schedule and guidance"),
    "a short schedule": ({"schedule": [1, 2]}, "schedule has 2 scales for 4 steps"),
    "a negative scale in it": ({"schedule": [1, 2, -3, 4]}, "the scale of step 2 is -3; expected a number >= 0"),
    "an unknown guidance": ({"guidance": {"kind": "magic"}}, "guidance: kind magic is not known"),
    "an interval without inside": (
        {"guidance": {"kind": "interval", "w": 2, "low": 0.5, "high": 0.5}},
        "guidance: an interval needs w >= 0 and 0 <= low < high <= 1",
    ),
    "no steps": ({"steps": 0}, "steps is 0; expected 1 ... 1000, or none for the artifact's"),
    "too many steps": ({"steps": 1001}, "steps is 1001; expected 1 ... 1000"),
    "a negative seed": ({"seed": -1}, "seed is -1; expected a whole number in 0 ... 18446744073709551615"),
    "a seed past 64 bits": ({"seed": str(2**64)}, "seed is 18446744073709551616; expected a whole number"),
    "a seed that is no safe integer": ({"seed": 2.0**60}, "(past 2^53 as a bigint or as text)"),
    "a seed in words": ({"seed": "seven"}, "seed is seven; expected a whole number"),
}


def test_what_makes_no_sense_is_an_argument_error_that_says_what_is_expected(artifact: Path, in_node: Ask) -> None:
    answers = in_node(artifact, *({"sample": {"labels": [1], **asked}} for asked, _ in REFUSED.values()))
    for (name, (_, text)), answer in zip(REFUSED.items(), answers, strict=True):
        assert answer["status"] == "argument" and text in answer["message"], (name, answer)


def test_progress_counts_the_steps_of_all_batches(artifact: Path, in_node: Ask) -> None:
    (answer,) = in_node(artifact, {"sample": {"labels": LABELS, "steps": 3}}, maxBatch=4)
    assert answer["steps"] == [[done, 9] for done in range(1, 10)]


@pytest.mark.parametrize("step", [0, 5])
def test_a_signal_stops_within_one_step(artifact: Path, in_node: Ask, step: int) -> None:
    stopped, next_one = in_node(
        artifact, {"sample": {"labels": [1], "steps": 50}, "stopAt": step}, {"sample": {"labels": [1]}}
    )
    assert (stopped["status"], len(stopped["steps"])) == ("cancelled", step)
    assert "data" in next_one  # and the model draws on


def test_values_that_are_not_finite_are_an_error_that_names_the_step(artifact: Path, in_node: Ask) -> None:
    huge = base64.b64encode(np.full(64, 3e38, np.float32).tobytes()).decode()
    (answer,) = in_node(artifact, {"sample": {"labels": [1], "w": 2}, "noise": huge})
    assert answer["status"] == "not finite", answer
    assert "step 1 of 4 (t = 999, w = 2) gave a value that is not finite" in answer["message"]


def test_another_backend_is_not_taken_silently(artifact: Path, in_node: Ask) -> None:
    for backend, said in (("wasm", "Node runs node alone"), ("abacus", "known: wasm, webgpu, node")):
        (answer,) = in_node(artifact, backend=backend)
        assert said in answer["message"]


def test_a_folder_that_is_not_there_or_has_no_manifest_is_not_found(
    artifact: Path, in_node: Ask, tmp_path: Path
) -> None:
    for folder in (tmp_path / "nothing", tmp_path):
        (answer,) = in_node(folder)
        assert answer == {"status": "not found", "message": f"{folder}: not an artifact (it has no manifest.json)"}


def test_a_flipped_bit_is_refused_before_anything_is_loaded(artifact: Path, in_node: Ask, tmp_path: Path) -> None:
    folder = tmp_path / "artifact"
    shutil.copytree(artifact, folder)
    data = bytearray((folder / "sampler.onnx").read_bytes())  # a graph that this library never runs
    data[len(data) // 2] ^= 1
    (folder / "sampler.onnx").write_bytes(data)
    (answer,) = in_node(folder)
    reason = "damaged or changed since it was made (its SHA-256 differs from the manifest's)"
    assert answer == {"status": "damaged", "message": f"{folder}/sampler.onnx: {reason}"}
