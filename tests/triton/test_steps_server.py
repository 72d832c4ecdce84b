"""A real tritonserver serves by the step: gRPC streams with previews, plain HTTP and gRPC, cancelling and refusals."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb
from tritonclient.utils import InferenceServerException

import dashdeploy.runtime
from dashdeploy import stages
from dashdeploy.diffusion import sampling
from dashdeploy.packages import schema
from dashdeploy.packages.stage import write_package
from dashdeploy.runtime.graphs_model import GraphSampler
from dashdeploy.runtime.model import Model

PLACES, WAITING = 4, 6
"""Of the model `plain`."""
LONG = 1000
"""Steps: more than half a second for an image by itself."""
Infer = Callable[..., Any]


@pytest.fixture(scope="module")
def packages(tiny_run: Path) -> dict[str, stages.Stage]:
    """The model's name -> its package: `stream` with previews, `plain` without."""
    made = {}
    for name in ("stream", "plain"):
        package = schema.load("triton-steps")
        assert isinstance(package, schema.Package)
        changes = {"threads": 2, "model_name": name, "previews": name == "stream"}
        changes |= {"max_queue_size": WAITING} if name == "plain" else {}
        settings = package.package.model_copy(update=changes)
        made[name] = write_package(tiny_run, package.model_copy(update={"name": f"steps-{name}", "package": settings}))
    return made


@pytest.fixture(scope="module")
def server(
    triton_server: ModuleType, packages: dict[str, stages.Stage], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    """Both models; the step times of `plain` are given, so that its places are known."""
    repository = tmp_path_factory.mktemp("steps") / "model_repository"
    for package in packages.values():
        shutil.copytree(package.folder / "model_repository", repository, dirs_exist_ok=True)
    path = repository / "plain" / "config.pbtxt"
    config = text_format.Parse(path.read_text(), pb.ModelConfig())
    config.parameters["step_times"].string_value = f'{{"1": 1.0, "{PLACES}": 1.0}}'
    path.write_text(text_format.MessageToString(config))
    with triton_server.serve(repository) as running:
        yield running


@pytest.fixture(scope="module")
def models(server: Any, packages: dict[str, stages.Stage], client: ModuleType) -> Iterator[dict[str, Any]]:
    """The package's client by model and protocol; the last test closes them."""
    kinds = {"stream": ("stream", "grpc"), "grpc": ("plain", "grpc"), "http": ("plain", "http")}
    return {
        key: client.Model(getattr(server, protocol), name, protocol=protocol, timeout_s=60.0)
        for key, (name, protocol) in kinds.items()
    }


@pytest.fixture(scope="module")
def expected(tiny_run: Path) -> Iterator[Callable[..., Any]]:
    """An image of the Python runtime's step graph."""
    with dashdeploy.runtime.open(tiny_run / "artifacts" / "onnx-cpu", threads=1) as model:
        assert isinstance(model.sampler, GraphSampler)
        model.sampler.timesteps = ()
        yield lambda number, **asked: drawn(model, number, **asked)


def drawn(model: Model, number: int, *, steps: int, w: list[float], solver: Any = "ddim") -> Any:
    section = model.sampling.model_copy(update={"num_inference_steps": steps, "solver": solver})
    timesteps = sampling.plan(section, 1000).timesteps
    plan = sampling.Plan(timesteps, tuple(w if len(w) == steps else w * steps), section.clip_sample, solver)
    noise = sampling.initial_noise(5, number, 1, model.denoiser.interface.image_shape)
    return model.sample(noise, torch.tensor([number % 10]), plan)[0].numpy()


def more(steps: int, **others: Any) -> dict[str, Any]:
    return {"steps": np.array([steps])} | {name: np.array([value]) for name, value in others.items()}


def ask(model: Any, number: int, *, steps: int, w: list[float], solver: str = "ddim", **how: Any) -> Any:
    told = more(steps) | ({"solver": np.array([solver.encode()], object)} if solver != "ddim" else {})
    return model.infer(model.request(number % 10, w, seed=5, index=number, more=told), **how)


def mixed(number: int) -> dict[str, Any]:
    draw = np.random.default_rng(number)
    steps = int(draw.choice([1, 2, 4, 10, 20]))
    scales = draw.uniform(0.0, 5.0, steps if draw.random() < 0.5 else 1).astype(np.float32).tolist()
    return {"steps": steps, "w": scales, "solver": str(draw.choice(["ddim", "dpmpp_2m"]))}


@pytest.mark.parametrize("kind", ["stream", "grpc", "http"])
def test_mixed_requests_get_the_images_of_the_python_runtime(
    models: dict[str, Any], expected: Infer, kind: str
) -> None:
    at_once = PLACES + WAITING if kind != "stream" else 16
    with ThreadPoolExecutor(at_once) as pool:
        images = list(pool.map(lambda i: ask(models[kind], i, **mixed(i)), range(60)))
    for number, image in enumerate(images):
        assert np.abs(image - expected(number, **mixed(number))).max() < 1e-4, number


def test_requests_run_together_in_one_batch(server: Any, models: dict[str, Any]) -> None:
    """Long ones first, then short ones: these are answered while the long ones run."""
    order: list[int] = []

    def one(number: int) -> None:
        ask(models["stream"], number, steps=LONG if number < 2 else 4, w=[2.0])
        order.append(number)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(one, range(6)))
    assert order[-1] in (0, 1) and order[0] not in (0, 1)


def test_previews_come_while_the_image_is_made(models: dict[str, Any], expected: Infer) -> None:
    model, seen = models["stream"], list[tuple[int, Any]]()
    arrays = model.request(3, [2.0], seed=5, index=3, more=more(20, preview_every=6))
    image = model.infer(arrays, on_preview=lambda step, x_0: seen.append((step, x_0)))
    assert np.abs(image - expected(3, steps=20, w=[2.0])).max() < 1e-4
    assert [step for step, _ in seen] == [6, 12, 18]
    assert all(x_0.shape == image.shape and np.abs(x_0).max() <= 1 for _, x_0 in seen)
    distances = [float(np.abs(x_0 - image).mean()) for _, x_0 in seen]
    assert distances[2] < distances[0]


def test_a_request_of_several_images_has_previews_of_each(models: dict[str, Any], expected: Infer) -> None:
    model, tensors = models["stream"], []
    for name, array, kind in (
        ("label", np.array([[1], [2], [3]]), "INT64"),
        ("guidance", np.array([[1.5], [2.5], [3.0]], np.float32), "FP32"),
        ("seed", np.full((3, 1), 5, np.uint64), "UINT64"),
        ("index", np.array([[1], [2], [3]], np.uint64), "UINT64"),
        ("steps", np.array([[4], [10], [6]]), "INT64"),
        ("preview_every", np.full((3, 1), 5), "INT64"),
    ):
        tensors.append(model.protocol.InferInput(name, list(array.shape), kind))
        tensors[-1].set_data_from_numpy(array)
    seen: list[tuple[int, int]] = []
    streams = sys.modules[model.infer.__func__.__module__].stream
    images = streams.ask(
        model.client, "stream", tensors, timeout_s=60.0, on_preview=lambda number, step, _: seen.append((number, step))
    )
    assert sorted(seen) == [(1, 5), (2, 5)]
    for i, (steps, w) in enumerate([(4, 1.5), (10, 2.5), (6, 3.0)]):
        assert np.abs(images[i] - expected(i + 1, steps=steps, w=[w])).max() < 1e-4


def test_a_cancelled_stream_stops_its_steps_and_others_go_on(
    server: Any, models: dict[str, Any], client: ModuleType, expected: Infer
) -> None:
    counters = ("dashdeploy_image_steps", "dashdeploy_wasted_image_steps")
    time.sleep(0.5)  # what ran before is reported
    before = [server.metric(name, "stream") for name in counters]
    stop, begun = threading.Event(), threading.Event()

    def cancelled() -> str:
        arrays = models["stream"].request(1, [2.0], seed=5, index=1, more=more(LONG, preview_every=10))
        try:
            models["stream"].infer(arrays, stop=stop, on_preview=lambda step, _: begun.set())
        except client.stream.Cancelled:
            return "cancelled"
        return "done"

    with ThreadPoolExecutor(2) as pool:
        gone = pool.submit(cancelled)
        assert begun.wait(30)
        stop.set()
        assert gone.result() == "cancelled"
        image = ask(models["stream"], 4, steps=4, w=[2.0])
    assert np.abs(image - expected(4, steps=4, w=[2.0])).max() < 1e-4
    time.sleep(1.0)
    ran, wasted = (server.metric(name, "stream") - was for name, was in zip(counters, before, strict=True))
    assert 0 < wasted < LONG and ran == wasted + 4


def test_a_late_request_is_told_how_long_it_waited(models: dict[str, Any]) -> None:
    for model in models.values():
        with pytest.raises(InferenceServerException, match=r"not done in the 0\.05 s that it had; it waited \d"):
            ask(model, 1, steps=LONG, w=[2.0], deadline_s=0.05)


def test_a_full_queue_refuses_at_once(models: dict[str, Any], expected: Infer) -> None:
    def one(number: int) -> Any:
        try:
            return ask(models["grpc"], number, steps=100, w=[2.0])
        except InferenceServerException as error:
            return error

    with ThreadPoolExecutor(3 * (PLACES + WAITING)) as pool:
        answers = list(pool.map(one, range(3 * (PLACES + WAITING))))
    refused = [str(answer) for answer in answers if isinstance(answer, InferenceServerException)]
    assert refused and len(refused) <= 2 * (PLACES + WAITING)
    assert all(f"images wait for {PLACES} places, and at most {WAITING} may. Ask again later" in e for e in refused)
    for number, answer in enumerate(answers):
        if isinstance(answer, np.ndarray):
            assert np.abs(answer - expected(number, steps=100, w=[2.0])).max() < 1e-4


def test_wrong_requests_get_an_error_each_while_the_others_are_served(models: dict[str, Any], expected: Infer) -> None:
    label, huge = {"label": np.array([3])}, np.full((1, 8, 8), 3e38, np.float32)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"label": np.array([10])}, "label must be in 0 … 9, got [10]"),
        ({"seed": np.array([1], np.uint64)}, "label is required"),
        (label | {"noise": huge}, "not finite from step 1 of 4 on (t = "),
        (label | {"noise": np.full((1, 8, 8), np.nan, np.float32)}, "noise must be finite"),
        (label | {"guidance": np.ones(3, np.float32)}, "one for each of the 4 steps, got shape [3]"),
        (label | {"steps": np.array([1001])}, "steps is 1001; expected 1 ... 1000"),
        (label | {"solver": np.array([b"euler"], object)}, "solver is 'euler'; this student takes ddim or dpmpp_2m"),
        (
            label | {"preview_every": np.array([-1])},
            "preview_every must be 0 (none) or a number of steps, the same for all images of a request, got -1",
        ),
    ]

    def one(number: int) -> Any:
        if number % 2:
            return ask(models["stream"], number, **mixed(number))
        try:
            return models["stream"].infer(wrong[number // 2 % len(wrong)][0])
        except InferenceServerException as error:
            return error

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(one, range(4 * len(wrong))))
    for number, answer in enumerate(answers):
        if number % 2:
            assert np.abs(answer - expected(number, **mixed(number))).max() < 1e-4
        else:
            assert wrong[number // 2 % len(wrong)][1] in str(answer) and "Traceback" not in str(answer)


def test_the_client_writes_previews_and_cancels(server: Any, packages: dict[str, stages.Stage], tmp_path: Path) -> None:
    def run(*arguments: str) -> Any:
        command = [sys.executable, str(packages["stream"].folder / "client.py"), "--protocol", "grpc"]
        return subprocess.run([*command, "--url", server.grpc, *arguments], capture_output=True, text=True, check=False)

    done = run("--labels", "0-2", "--steps", "20", "--preview-every", "8", "--out", str(tmp_path / "a.pgm"))
    assert done.returncode == 0 and done.stdout.startswith("3 images in "), done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a-step-16.pgm", "a-step-8.pgm", "a.pgm"]
    assert "image 2: preview at step 16 after " in done.stderr
    done = run("--labels", "0-9", "--steps", str(LONG), "--cancel-after", "0.2")
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr == f"error: {server.grpc}: cancelled before all images were done\n"


def test_the_server_logs_its_table_and_ends_cleanly(server: Any, models: dict[str, Any]) -> None:
    for model in models.values():
        model.close()
    assert server.log.count("(ms by batch size): ") == 1  # of `stream`; that of `plain` was given
    assert server.stop() == 0, server.log[-3000:]
    assert "error" not in server.log.split("Signal (15)")[-1].lower()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.process.pid, 0)
        raise AssertionError("a process of the server is still there")
