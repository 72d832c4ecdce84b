"""The C++ runtime draws the same images as the Python runtime, from one thread or several, whole or cancelled."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import seal
from library import Library, Model, StatusError, guidance

import dashdeploy.runtime
from dashdeploy.diffusion import noise, sampling
from dashdeploy.recipe.schema import Guidance, GuidanceInterval, Sampling, Tag

pytestmark = pytest.mark.slow

MAX_BATCH = 8
SCALES: dict[str, tuple[Guidance, dict]] = {
    "constant": (2.5, {"kind": "constant", "w": 2.5}),
    "off": (1.0, {"kind": "constant", "w": 1.0}),
    "tag": (Tag(w_min=1, w_max=4, beta=5), {"kind": "tag", "w_min": 1, "w": 4, "beta": 5}),
    "interval": (
        GuidanceInterval(w=3, low=0.2, high=0.8),
        {"kind": "interval", "w": 3, "low": 0.2, "high": 0.8},
    ),
}


@pytest.fixture(scope="module")
def model(library: Library, artifact: Path):
    with Model(library, artifact, threads=2, max_batch=MAX_BATCH) as opened:
        yield opened


@pytest.fixture(scope="module")
def reference(artifact: Path):
    """The Python runtime on the same artifact."""
    with dashdeploy.runtime.open(artifact, threads=1) as opened:
        yield opened


def drawn(reference, labels: np.ndarray, scale: Guidance, steps: int, *, seed: int = 7) -> np.ndarray:
    interface = reference.denoiser.interface
    start = sampling.initial_noise(seed, 0, len(labels), interface.image_shape)
    run = sampling.plan(Sampling(num_inference_steps=steps, guidance=scale), 1000)
    return reference.sample(start, torch.from_numpy(labels), run).numpy()


@pytest.mark.parametrize("count", [1, 3, MAX_BATCH, 2 * MAX_BATCH + 3])
@pytest.mark.parametrize("name", SCALES)
def test_fifty_guided_steps_end_in_the_python_runtime_s_images(model: Model, reference, count: int, name: str) -> None:
    labels = np.arange(count) % 10
    scale, asked = SCALES[name]
    expected = drawn(reference, labels, scale, 50)
    start = noise.normal(7, 0, count, expected[0].size)
    for given in ({"noise": start}, {"seed": 7}):
        images = model.sample(labels, scale=guidance(**asked), steps=50, **given)
        np.testing.assert_allclose(images, expected, rtol=0, atol=1e-4)
    assert np.ptp(expected) > 0.5


def test_a_scale_for_each_step_is_followed(model: Model, reference) -> None:
    labels = np.array([4, 0])
    scales = np.linspace(1, 3, 5, dtype=np.float32)
    start = noise.normal(7, 0, 2, 64)
    images = model.sample(labels, noise=start, scale=guidance("schedule", scales), steps=5)
    run = sampling.plan(Sampling(num_inference_steps=5), 1000)
    plan = sampling.Plan(run.timesteps, tuple(float(w) for w in scales), run.clip_sample)
    shaped = torch.from_numpy(start).view(2, *model.image_shape)
    expected = reference.sample(shaped, torch.from_numpy(labels), plan).numpy()
    np.testing.assert_allclose(images, expected, rtol=0, atol=1e-4)


def test_without_guidance_and_steps_it_takes_the_artifact_s(model: Model) -> None:
    labels = np.array([1, 2, 3])
    images = model.sample(labels, seed=3)
    assert np.array_equal(images, model.sample(labels, seed=3, scale=guidance("constant", w=2.0), steps=4))
    assert not np.array_equal(images, model.sample(labels, seed=3, scale=guidance("constant", w=2.0), steps=5))


@pytest.fixture
def altered(artifact: Path, tmp_path: Path):
    """A copy of the artifact with a changed manifest, sealed again."""

    def make(change: Callable[[dict[str, Any]], object]) -> Path:
        folder = tmp_path / "altered"
        shutil.copytree(artifact, folder)
        manifest = json.loads((folder / "manifest.json").read_text())
        change(manifest["artifact"])
        seal(folder, json.dumps(manifest).encode())
        return folder

    return make


def test_the_plan_is_the_manifest_s(library: Library, altered) -> None:
    steps, scales = [900, 500, 100, 3], [1.5, 4.0, 1.0, 0.1]
    folder = altered(lambda artifact: artifact["sampling"].update(timesteps=steps, guidance_scales=scales))
    with Model(library, folder) as opened:
        for num_steps in (0, 4):
            t, t_prev, w = opened.plan(num_steps, guidance())
            assert (t.tolist(), t_prev.tolist()) == (steps, [*steps[1:], -1])
            assert np.array_equal(w, np.array(scales, np.float32))


@pytest.mark.parametrize(
    ("host", "count", "by_graph"),
    [
        ({"small": False, "cond_gain": 1.0, "cond_gain_few": 0.0}, 1, True),
        ({"small": False, "cond_gain": 0.0, "cond_gain_few": 1.0}, 1, False),
        ({"small": True, "cond_gain": 1.0, "cond_gain_few": 0.0}, 1, False),
        ({"small": True, "cond_gain": 0.0, "cond_gain_few": 1.0}, 1, True),
        ({"small": True, "cond_gain": 0.0, "cond_gain_few": 1.0}, 2, False),
    ],
)
def test_the_manifest_says_when_the_loop_replaces_the_sampler_graph_here_and_in_python(
    library: Library, model: Model, altered, host: dict[str, Any], count: int, by_graph: bool
) -> None:
    """The graph keeps its timesteps when the manifest names others: the images tell whether it drew them."""
    steps, labels = [900, 500, 100, 3], np.arange(count)

    def change(artifact: dict[str, Any]) -> None:
        artifact["host"] = host
        for part in ("sampling", "sampler"):
            artifact[part].update(timesteps=steps)

    folder = altered(change)
    with Model(library, folder, threads=2) as opened:
        images = opened.sample(labels, seed=7)
        stepped = opened.sample(labels, seed=7, progress=lambda done, total: 0)
    expected = model.sample(labels, seed=7) if by_graph else stepped
    np.testing.assert_allclose(images, expected, rtol=0, atol=1e-3)
    assert np.abs(model.sample(labels, seed=7) - stepped).max() > 0.01
    plan = replace(sampling.plan(Sampling(num_inference_steps=4), 1000), timesteps=tuple(steps))
    with dashdeploy.runtime.open(folder, threads=2) as opened:
        start = sampling.initial_noise(7, 0, count, model.image_shape)
        python = opened.sample(start, torch.from_numpy(labels), plan).numpy()
    np.testing.assert_allclose(images, python, rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", ["tag", "interval"])
def test_guidance_over_time_may_be_the_artifact_s(library: Library, altered, name: str) -> None:
    scale, asked = SCALES[name]
    assert isinstance(scale, Tag | GuidanceInterval)
    folder = altered(lambda artifact: artifact["sampling"].update(guidance=scale.model_dump()))
    with Model(library, folder) as opened:
        for here, there in zip(opened.plan(50, guidance()), opened.plan(50, guidance(**asked)), strict=True):
            assert np.array_equal(here, there)


@pytest.mark.parametrize("missing", [["step"], ["cond"], ["step", "cond"]])
@pytest.mark.parametrize("name", ["constant", "interval"])
def test_without_a_step_or_cond_graph_it_draws_the_same(
    library: Library, altered, reference, missing: list[str], name: str
) -> None:
    labels = np.arange(3)
    scale, asked = SCALES[name]
    folder = altered(lambda artifact: [artifact["graphs"].pop(graph) for graph in missing])
    with Model(library, folder, threads=1) as opened:
        images = opened.sample(labels, seed=7, scale=guidance(**asked), steps=50)
    np.testing.assert_allclose(images, drawn(reference, labels, scale, 50), rtol=0, atol=1e-4)


def test_an_image_does_not_depend_on_the_others_of_its_request(model: Model) -> None:
    labels = np.arange(11) % 10
    whole = model.sample(labels, seed=5)
    alone = model.sample(labels[9:10], seed=5, first_image=9)
    np.testing.assert_allclose(alone, whole[9:10], rtol=0, atol=1e-5)


@pytest.mark.parametrize("seed", [0, 7, 2**40 + 1, 2**64 - 1])
@pytest.mark.parametrize("size", [1, 6, 3072])
def test_noise_is_that_of_the_python_package(library: Library, seed: int, size: int) -> None:
    for first in (0, 5, 2**32 - 1):
        here, there = library.noise(seed, first, 3, size), noise.normal(seed, first, 3, size)
        np.testing.assert_array_max_ulp(here, there, maxulp=1)


@pytest.mark.parametrize("spacing", ["trailing", "leading", "linspace"])
def test_timesteps_are_python_s_for_every_number_of_steps(library: Library, altered, spacing: str) -> None:
    four = sampling.timesteps(4, 1000, spacing)  # as many as the artifact's: these are in the manifest
    change = {"timestep_spacing": spacing, "timesteps": four}
    with Model(library, altered(lambda artifact: artifact["sampling"].update(change))) as opened:
        for steps in range(1, 1001):
            t, t_prev, _ = opened.plan(steps, guidance())
            expected = sampling.timesteps(steps, 1000, spacing)
            assert t.tolist() == expected, steps
            assert t_prev.tolist() == [*expected[1:], -1]


def test_guidance_scales_are_python_s(model: Model) -> None:
    for scale, asked in SCALES.values():
        for steps in (1, 7, 50, 1000):
            run = sampling.plan(Sampling(num_inference_steps=steps, guidance=scale), 1000)
            _, _, w = model.plan(steps, guidance(**asked))
            np.testing.assert_array_max_ulp(w, np.array(run.weights, np.float32), maxulp=1)


@pytest.mark.parametrize("name", SCALES)
@pytest.mark.parametrize("count", [1, 3, 2 * MAX_BATCH + 3])
def test_the_sampler_graph_and_the_loop_draw_the_same(model: Model, reference, name: str, count: int) -> None:
    labels = np.arange(count) % 10
    scale, asked = SCALES[name]
    expected = drawn(reference, labels, scale, 4)
    for progress in (None, lambda done, total: 0):  # without progress: all four steps in one call, where that is faster
        images = model.sample(labels, seed=7, scale=guidance(**asked), steps=4, progress=progress)
        np.testing.assert_allclose(images, expected, rtol=0, atol=1e-3)  # the first of four steps magnifies rounding


def test_an_application_may_own_the_loop(model: Model) -> None:
    labels = np.array([3, 5, 9])
    t, t_prev, w = model.plan(6, guidance("constant", w=2.5))
    x = noise.normal(2, 0, 3, 64)
    for now, previous, scale in zip(t, t_prev, w, strict=True):
        model.step(x, np.full(3, now), np.full(3, previous), labels, np.full(3, scale, np.float32))
    expected = model.sample(labels, seed=2, steps=6, scale=guidance("constant", w=2.5))
    np.testing.assert_allclose(np.clip(x, -1, 1).reshape(expected.shape), expected, rtol=0, atol=1e-5)


def test_a_step_takes_a_t_and_a_scale_per_image(model: Model) -> None:
    x = noise.normal(2, 0, 2, 64)
    t, t_prev, labels = np.array([900, 300]), np.array([800, -1]), np.array([1, 2])
    w = np.array([1.0, 4.0], np.float32)
    together = x.copy()
    model.step(together, t, t_prev, labels, w)
    for i in range(2):
        alone = x[i : i + 1].copy()
        model.step(alone, *(a[i : i + 1].copy() for a in (t, t_prev, labels, w)))
        np.testing.assert_allclose(alone, together[i : i + 1], rtol=0, atol=1e-5)


def test_four_threads_on_one_handle_draw_what_one_draws(model: Model) -> None:
    jobs = [(np.arange(5 + i) % 10, 100 + i) for i in range(4)]
    alone = [model.sample(labels, seed=seed, steps=10) for labels, seed in jobs]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            together = list(pool.map(lambda job: model.sample(job[0], seed=job[1], steps=10), jobs))
            assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))


@pytest.mark.parametrize("count", [1, 2 * MAX_BATCH + 3])
def test_progress_is_told_to_its_end_and_in_order(model: Model, count: int) -> None:
    seen: list[tuple[int, int]] = []
    model.sample(np.zeros(count, np.int64), steps=5, progress=lambda done, total: seen.append((done, total)) or 0)
    totals = {total for _, total in seen}
    assert len(totals) == 1
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert seen[-1][0] == totals.pop()


@pytest.mark.parametrize("count", [1, 20])
def test_a_cancelled_request_says_so_and_the_handle_goes_on(model: Model, count: int) -> None:
    labels = np.zeros(count, np.int64)
    calls: list[int] = []

    def stop_at_third(done: int, total: int) -> int:
        calls.append(done)
        return len(calls) == 3

    with pytest.raises(StatusError, match="cancelled by the progress callback") as caught:
        model.sample(labels, steps=50, progress=stop_at_third)
    assert caught.value.status == "cancelled"
    assert len(calls) == 3
    assert np.array_equal(model.sample(labels, seed=1), model.sample(labels, seed=1))


def test_what_the_artifact_is_can_be_asked(model: Model, library: Library) -> None:
    info = model.info
    assert (info.backend, info.precision, info.name) == (b"openvino", b"fp32", b"openvino")
    assert (info.num_classes, info.num_train_timesteps, info.num_inference_steps) == (10, 1000, 4)
    assert info.max_batch == MAX_BATCH
    assert library.dll.dd_class_name(model.handle, 3) == b"3"
    assert library.dll.dd_backends() == b"openvino"
