"""A real tritonserver on the loopback address serves the python package: images, batches, refusals, shutdown."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

import dashdeploy.runtime
from dashdeploy import checked, signing, stages
from dashdeploy.diffusion import noise, sampling
from dashdeploy.diffusion.sampling import Plan
from dashdeploy.runtime.graphs_model import GraphSampler
from dashdeploy.runtime.model import Model

MODEL = "tiny"
PROTOCOLS = ("http", "grpc")
NUM_REQUESTS = 200
Arrays = dict[str, NDArray[Any]]


@pytest.fixture(scope="module")
def server(triton_server: ModuleType, python_package: stages.Stage) -> Iterator[Any]:
    """The one server of this file."""
    with triton_server.serve(python_package.folder / "model_repository") as running:
        yield running


@pytest.fixture(scope="module")
def models(server: Any, client: ModuleType) -> dict[str, Any]:
    """The package's client, by protocol; the last test closes them."""
    urls = {"http": server.http, "grpc": server.grpc}
    return {protocol: client.Model(urls[protocol], MODEL, protocol=protocol, timeout_s=60.0) for protocol in PROTOCOLS}


@pytest.fixture(scope="module")
def runtime(tiny_run: Path) -> Iterator[Model]:
    """The Python runtime on the step graph, as served.

    The sampler graph rounds differently, and the hardly trained network's first step magnifies that to 2e-4.
    """
    with dashdeploy.runtime.open(tiny_run / "artifacts" / "onnx-cpu", threads=1) as model:
        assert isinstance(model.sampler, GraphSampler)
        model.sampler.timesteps = ()  # no plan fits the sampler graph
        yield model


@pytest.fixture(scope="module")
def steps(python_package: stages.Stage) -> tuple[int, ...]:
    artifact = stages.read_stage(python_package.folder / "model_repository" / MODEL / "1" / "artifact")
    return tuple(artifact.manifest["artifact"]["sampling"]["timesteps"])


def mixed_request(number: int, shape: tuple[int, ...], n: int) -> Arrays:
    """A request of one image: its number decides its label, its w (one, a schedule or none), and its seed or noise."""
    generator = np.random.default_rng(number)
    arrays: Arrays = {"label": np.array([number % 10])}
    w = generator.uniform(0.0, 5.0, n).astype(np.float32)
    kind = generator.random()
    if kind < 0.9:
        arrays["guidance"] = w[:1] if kind < 0.4 else w if kind < 0.8 else np.ones(1, np.float32)
    if generator.random() < 0.1:
        return arrays | {"noise": generator.standard_normal(shape).astype(np.float32)}
    return arrays | {"seed": np.array([number], np.uint64), "index": np.array([2**40 + number], np.uint64)}


def expected(arrays: Arrays, runtime: Model, steps: tuple[int, ...]) -> NDArray[Any]:
    """The same image from the Python runtime, in a batch of one."""
    shape = runtime.denoiser.interface.image_shape
    w = np.broadcast_to(arrays.get("guidance", np.full(1, 2.0)), (len(steps),))
    x = arrays.get("noise")
    if x is None:
        size = int(np.prod(shape))
        x = noise.normal(int(arrays["seed"][0]), int(arrays["index"][0]), 1, size).reshape(shape)
    plan = Plan(steps, tuple(map(float, w)), clip_sample=True)
    return runtime.sample(torch.from_numpy(x)[None], torch.from_numpy(arrays["label"]), plan)[0].numpy()


def ask(models: dict[str, Any], requests: list[Arrays]) -> list[NDArray[Any] | Exception]:
    """All requests at once, HTTP and gRPC in turns; an image or the error of each."""

    def one(number: int) -> NDArray[Any] | Exception:
        try:
            image: NDArray[Any] = models[PROTOCOLS[number % 2]].infer(requests[number])
            return image
        except InferenceServerException as error:
            return error

    with ThreadPoolExecutor(32) as pool:
        return list(pool.map(one, range(len(requests))))


def test_200_mixed_requests_are_batched_and_each_gets_the_image_of_the_python_runtime(
    server: Any, models: dict[str, Any], runtime: Model, steps: tuple[int, ...]
) -> None:
    requests = [mixed_request(i, runtime.denoiser.interface.image_shape, len(steps)) for i in range(NUM_REQUESTS)]
    counters = ("nv_inference_request_success", "nv_inference_exec_count", "nv_inference_count")
    before = [server.metric(name, MODEL) for name in counters]
    images = ask(models, requests)
    # The server counts an answer after it has sent it.
    end = time.monotonic() + 10
    while server.metric(counters[0], MODEL) - before[0] < NUM_REQUESTS and time.monotonic() < end:
        time.sleep(0.02)
    served, executions, images_made = (
        server.metric(name, MODEL) - was for name, was in zip(counters, before, strict=True)
    )
    assert served == images_made == NUM_REQUESTS
    assert executions < NUM_REQUESTS / 2, f"{executions} executions"
    wanted = [expected(arrays, runtime, steps) for arrays in requests]
    for number, (image, reference) in enumerate(zip(images, wanted, strict=True)):
        assert isinstance(image, np.ndarray), image
        assert image.dtype == np.float32
        assert np.abs(image - reference).max() < 1e-4, number
    # The limit tells requests apart: with another label or guidance the image is another.
    for change in ({"label": np.array([0])}, {"guidance": np.full(1, 5.5, np.float32)}):
        differ = [
            np.abs(expected(requests[i] | change, runtime, steps) - wanted[i]).max() > 1e-2
            for i in range(1, NUM_REQUESTS, 10)
        ]
        assert np.mean(differ) > 0.9


def test_labels_and_guidance_of_all_kinds_share_a_batch(
    triton_server: ModuleType, server: Any, models: dict[str, Any], steps: tuple[int, ...]
) -> None:
    """One request of w and one of a schedule, again and again, until both were in one execution."""
    pair = [
        {"label": np.array([1]), "guidance": np.full(1, 3, np.float32)},
        {"label": np.array([7]), "guidance": np.arange(len(steps), dtype=np.float32)},
    ]
    before = server.metric("nv_inference_exec_count", MODEL)
    images = ask(models, pair * 20)
    assert all(isinstance(image, np.ndarray) for image in images)
    assert server.metric("nv_inference_exec_count", MODEL) - before < 20  # that many batches if kinds did not mix


def test_wrong_requests_get_an_error_each_while_the_others_are_served(
    models: dict[str, Any], runtime: Model, steps: tuple[int, ...]
) -> None:
    shape = runtime.denoiser.interface.image_shape
    good = [mixed_request(i, shape, len(steps)) for i in range(40)]
    nan_noise = np.zeros(shape, np.float32)
    nan_noise[0, 1, 2] = np.nan
    label = {"label": np.array([3])}
    wrong: list[tuple[Arrays, str]] = [
        ({"label": np.array([10])}, "label must be in 0 … 9, got [10]"),
        ({"label": np.array([-1])}, "label must be in 0 … 9, got [-1]"),
        (label | {"noise": nan_noise}, "noise must be finite"),
        (label | {"noise": np.zeros((1, 4, 4), np.float32)}, "shape"),
        (label | {"noise": np.full(shape, 3e38, np.float32)}, f"not finite from step 1 of {len(steps)} on (t = "),
        (label | {"guidance": np.full(1, np.nan, np.float32)}, "guidance must be finite and not negative"),
        (label | {"guidance": np.full(1, -1.0, np.float32)}, "guidance must be finite and not negative"),
        (label | {"guidance": np.ones(3, np.float32)}, f"one for each of the {len(steps)} steps, got shape [3]"),
        ({"seed": np.array([1], np.uint64)}, "label is required"),
    ]
    # Each wrong request goes over both protocols, with good ones around it.
    requests = [r for i, (bad, _) in enumerate(wrong * 2) for r in (bad, good[2 * i], good[2 * i + 1])]
    answers = ask(models, requests)
    for i, (_, message) in enumerate(wrong * 2):
        answer = answers[3 * i]
        assert isinstance(answer, InferenceServerException), (message, answer)
        assert message in str(answer) and "Traceback" not in str(answer)
        for k in (0, 1):
            image = answers[3 * i + 1 + k]
            assert isinstance(image, np.ndarray), image
            assert np.abs(image - expected(good[2 * i + k], runtime, steps)).max() < 1e-4


def test_a_request_of_several_images_is_served_too(
    models: dict[str, Any], runtime: Model, steps: tuple[int, ...]
) -> None:
    for model in models.values():
        tensors = []
        for name, array in {
            "label": np.array([[1], [2], [3]]),
            "guidance": np.array([[1.5], [2.5], [0.0]], np.float32),
            "seed": np.array([[5], [5], [6]], np.uint64),
            "index": np.array([[0], [1], [0]], np.uint64),
        }.items():
            kind = {"int64": "INT64", "float32": "FP32", "uint64": "UINT64"}[array.dtype.name]
            tensors.append(model.protocol.InferInput(name, list(array.shape), kind))
            tensors[-1].set_data_from_numpy(array)
        images = model.client.infer(MODEL, tensors).as_numpy("image")
        for i, (label, w, seed, index) in enumerate([(1, 1.5, 5, 0), (2, 2.5, 5, 1), (3, 0.0, 6, 0)]):
            alone = {"label": np.array([label]), "guidance": np.array([w])}
            alone |= {"seed": np.array([seed], np.uint64), "index": np.array([index], np.uint64)}
            assert np.abs(images[i] - expected(alone, runtime, steps)).max() < 1e-4


def test_requests_of_other_steps_and_solvers_share_a_batch(models: dict[str, Any], runtime: Model) -> None:
    asked = [(1, "ddim"), (3, "dpmpp_2m"), (20, "ddim"), (7, "dpmpp_2m")] * 5
    requests = [
        {
            **{"label": np.array([i % 10]), "guidance": np.full(1, 2.5, np.float32)},
            **{"seed": np.array([i], np.uint64), "index": np.array([0], np.uint64)},
            **{"steps": np.array([steps]), "solver": np.array([solver.encode()], object)},
        }
        for i, (steps, solver) in enumerate(asked)
    ]
    for i, image in enumerate(ask(models, requests)):
        section = runtime.sampling.model_copy(update={"num_inference_steps": asked[i][0], "solver": asked[i][1]})
        plan = sampling.plan(section, 1000, scale=2.5)
        start = sampling.initial_noise(i, 0, 1, runtime.denoiser.interface.image_shape)
        reference = runtime.sample(start, torch.tensor([i % 10]), plan)[0].numpy()
        assert isinstance(image, np.ndarray), image
        assert np.abs(image - reference).max() < 1e-4, asked[i]


def test_the_client_draws_what_dashdeploy_sample_draws(
    server: Any, python_package: stages.Stage, runtime: Model, steps: tuple[int, ...], tmp_path: Path
) -> None:
    from PIL import Image

    from dashdeploy.diffusion.sampling import generate

    plan = Plan(steps, (3.0,) * len(steps), clip_sample=True)
    labels = torch.arange(10)
    images = generate(runtime.sample, runtime.denoiser.interface, plan, labels=labels, seed=7, batch_size=10).numpy()
    for protocol, url in (("http", server.http), ("grpc", server.grpc)):
        out = tmp_path / f"{protocol}.png"
        asked = ["--protocol", protocol, "--url", url, "--labels", "0-9", "--guidance", "3", "--seed", "7"]
        command = [sys.executable, str(python_package.folder / "client.py"), *asked, "--out", str(out)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("10 images in ")
        with Image.open(out) as picture:
            pixels = np.asarray(picture).reshape(8, 10, 8).transpose(1, 0, 2)
        assert np.abs(pixels.astype(int) - images[:, 0].astype(int)).max() <= 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--labels", "11"], "label must be in 0 … 9"),
        (["--model", "other"], "no model 'other' that is ready"),
        (["--url", "127.0.0.1:1"], "127.0.0.1:1: "),
    ],
)
def test_the_client_tells_of_a_failure_in_one_line(
    server: Any, python_package: stages.Stage, arguments: list[str], message: str
) -> None:
    command = [sys.executable, str(python_package.folder / "client.py"), "--url", server.http, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1 and message in done.stderr


def test_a_changed_artifact_is_not_served(
    triton_server: ModuleType, python_package: stages.Stage, tmp_path: Path
) -> None:
    repository = tmp_path / "model_repository"
    shutil.copytree(python_package.folder / "model_repository", repository)
    graph = repository / MODEL / "1" / "artifact" / "step.onnx"
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 1
    graph.write_bytes(content)
    with triton_server.serve(repository, need_ready=False) as running:
        assert running.status(f"/v2/models/{MODEL}/ready") == 400
        assert "step.onnx: damaged or changed since it was made" in running.log


def test_with_a_public_key_an_artifact_without_its_signature_is_not_served(
    triton_server: ModuleType, python_package: stages.Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, public = signing.make_key_pair(tmp_path / "mine")
    monkeypatch.setenv(checked.PUBLIC_KEY, public.read_text().splitlines()[1])
    with triton_server.serve(python_package.folder / "model_repository", need_ready=False) as running:
        assert running.status(f"/v2/models/{MODEL}/ready") == 400
        assert "manifest.json.minisig: missing, and with a public key only what is signed is opened" in running.log


def test_the_server_ends_cleanly_and_leaves_no_process_behind(server: Any, models: dict[str, Any]) -> None:
    assert server.status("/v2/health/ready") == 200
    for model in models.values():
        model.close()
    assert server.stop() == 0, server.log[-3000:]
    assert server.status("/v2/health/live") == 0
    assert "error" not in server.log.split("Signal (15)")[-1].lower()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.process.pid, 0)
        raise AssertionError("a process of the server is still there")
