"""steps.py between a made-up server and the scheduler: what is asked of a request, and when it is answered."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dashdeploy import stages
from tests.triton.conftest import load

FINAL = 1


class Sender:
    """A response sender that fails where the real one would end the server."""

    def __init__(self) -> None:
        self.sent: list[tuple[Any, int]] = []
        self.cancelled, self.over, self.asked = False, threading.Event(), 0

    def send(self, response: Any, flags: int = 0) -> None:
        assert not self.over.is_set(), "an answer after the last one"
        self.sent.append((response, flags))
        if flags == FINAL:
            self.over.set()

    def is_cancelled(self) -> bool:
        assert not self.over.is_set(), "asked after the last answer"
        self.asked += 1
        return self.cancelled


class Request:
    """A request with the inputs that are given."""

    def __init__(self, timeout_us: int = 0, **given: Any) -> None:
        self.sender, self.timeout_us = Sender(), timeout_us
        self.given = {"label": np.array([[1]])} | given

    def inputs(self) -> list[Any]:
        return [
            SimpleNamespace(name=lambda n=name: n, as_numpy=lambda a=array: a) for name, array in self.given.items()
        ]

    def timeout(self) -> int:
        return self.timeout_us

    def get_response_sender(self) -> Sender:
        return self.sender


class Metrics:
    """The server's metrics by name."""

    COUNTER = "counter"
    found: dict[str, int]

    def __init__(self, name: str, description: str, kind: str) -> None:
        self.name = name

    def Metric(self, labels: dict[str, str]) -> Any:
        def increment(count: int) -> None:
            Metrics.found[self.name] = Metrics.found.get(self.name, 0) + count

        return SimpleNamespace(increment=increment)


@pytest.fixture
def pb_utils() -> Iterator[Any]:
    """What the python backend gives its models."""
    Metrics.found = {}
    lines: list[str] = []

    def response(output_tensors: list[Any], error: Any = None) -> Any:
        return SimpleNamespace(outputs=dict(output_tensors), error=error)

    codes = {name: name for name in ("INVALID_ARG", "INTERNAL", "CANCELLED", "UNAVAILABLE")}
    made: Any = ModuleType("triton_python_backend_utils")
    made.TRITONSERVER_RESPONSE_COMPLETE_FINAL = FINAL
    made.MetricFamily, made.InferenceResponse = Metrics, response
    made.Tensor = lambda name, array: (name, array)
    made.TritonError = type("TritonError", (), {"__init__": lambda self, *told: setattr(self, "told", told), **codes})
    made.Logger = SimpleNamespace(log_info=lines.append, log_warn=lines.append, log_error=lines.append)
    made.lines = lines
    sys.modules[made.__name__] = made
    yield made
    del sys.modules[made.__name__]


@pytest.fixture
def steps(pb_utils: Any, model_sampler: ModuleType, python_package: stages.Stage) -> Any:
    return load("triton_steps", python_package.folder / "model_repository" / "tiny" / "1" / "steps.py")


@pytest.fixture
def serving(steps: Any, model_sampler: ModuleType, tiny_run: Path) -> Iterator[Any]:
    sampler = model_sampler.Sampler(tiny_run / "artifacts" / "onnx-cpu", threads=1)
    parameters = {"previews": "true", "step_times": '{"1": 0.1, "4": 0.1}', "max_queue_size": "2"}
    made = steps.Steps(sampler, parameters, steps.Counters("tiny", "1"), largest=64)
    yield made
    made.close()
    sampler.close()


def test_a_question_and_the_last_answer_wait_for_each_other(steps: Any) -> None:
    sender, asking, answer = Sender(), threading.Event(), threading.Event()

    def slow() -> bool:
        asking.set()
        assert answer.wait(30) and not sender.over.is_set()
        return True

    line = steps.Line(sender)
    line.send("preview", last=False)
    assert not line.is_cancelled() and sender.asked == 1
    sender.is_cancelled = slow  # type: ignore[method-assign]
    threads = [threading.Thread(target=line.is_cancelled)]
    threads[0].start()
    assert asking.wait(30)
    threads.append(threading.Thread(target=lambda: line.send("image", last=True)))
    threads[1].start()
    assert not sender.over.wait(0.1)
    answer.set()
    for thread in threads:
        thread.join()
    assert sender.sent == [("preview", 0), ("image", FINAL)]
    del sender.is_cancelled
    assert not line.is_cancelled() and sender.asked == 1  # not asked


def test_nothing_is_asked_of_a_request_after_its_last_answer(serving: Any, pb_utils: Any) -> None:
    for _ in range(40):
        requests = [Request(steps=np.array([[n]])) for n in (1, 2, 20, 1)]
        assert serving.execute(requests) is None
        assert all(request.sender.over.wait(30) for request in requests)
    time.sleep(0.05)
    assert pb_utils.lines == []  # what a sender's assertion would be logged in
    assert all(flags == FINAL for request in requests for _, flags in request.sender.sent)


def test_previews_images_and_refusals_are_responses(serving: Any) -> None:
    good = Request(steps=np.array([[9]]), preview_every=np.array([[4]]))
    wrong, late = Request(label=np.array([[10]])), Request(timeout_us=1, steps=np.array([[1000]]))
    serving.execute([good, wrong, late])
    assert all(request.sender.over.wait(30) for request in (good, wrong, late))
    told = [(int(r.outputs["step"][0, 0]), flags) for r, flags in good.sender.sent]
    assert told == [(4, 0), (8, 0), (9, FINAL)]
    assert all(r.outputs["image"].shape == (1, 1, 8, 8) for r, _ in good.sender.sent)
    assert all(r.outputs["image"].dtype == np.float32 for r, _ in good.sender.sent)
    assert wrong.sender.sent[0][0].error.told == ("label must be in 0 … 9, got [10]", "INVALID_ARG")
    message, code = late.sender.sent[0][0].error.told
    assert message.startswith("not done in the 1e-06 s that it had; it waited ") and code == "UNAVAILABLE"


def test_an_answer_that_there_is_no_room_for_says_so(serving: Any, steps: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sender that failed once sends nothing more: its client would wait for ever."""
    monkeypatch.setattr(steps, "free_shared", lambda: 1 << 20)
    request = Request(steps=np.array([[1]]))
    serving.execute([request])
    assert request.sender.over.wait(30)
    message, code = request.sender.sent[0][0].error.told
    assert "/dev/shm has 1 MiB left" in message and "--shm-size" in message and code == "INTERNAL"
    monkeypatch.undo()
    assert steps.free_shared() > 0
    after = Request(steps=np.array([[1]]))
    serving.execute([after])
    assert after.sender.over.wait(30) and after.sender.sent[0][0].error is None


def test_a_response_that_cannot_be_made_is_an_error(
    serving: Any, pb_utils: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(name: str, array: Any) -> Any:
        raise ValueError("not a tensor")

    monkeypatch.setattr(pb_utils, "Tensor", fails)
    request = Request(steps=np.array([[1]]))
    serving.execute([request])
    assert request.sender.over.wait(30)
    assert request.sender.sent[0][0].error.told == ("ValueError: not a tensor", "INTERNAL")


@pytest.mark.parametrize("every", [[-1], [2, 3], [1, -1]])
def test_previews_are_asked_for_once_a_request(serving: Any, every: list[int]) -> None:
    request = Request(label=np.ones((len(every), 1), np.int64), preview_every=np.array(every)[:, None])
    serving.execute([request])
    assert request.sender.over.wait(30)
    message, code = request.sender.sent[0][0].error.told
    assert message.startswith("preview_every must be 0 (none) or a number of steps, the same") and code == "INVALID_ARG"


def test_a_batch_that_is_cut_over_threads_is_not_filled_up(
    steps: Any, model_sampler: ModuleType, tiny_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fillers would go to the same threads: a lone image would take as long as the whole batch on one."""
    sampler = model_sampler.Sampler(tiny_run / "artifacts" / "onnx-cpu", threads=2)
    asked: list[int] = []
    move = sampler.move

    def noted(images: list[Any], rows: int = 0) -> None:
        asked.append(rows)
        move(images, rows)

    monkeypatch.setattr(sampler, "move", noted)
    made = steps.Steps(sampler, {"step_times": '{"1": 0.2, "2": 0.1}'}, steps.Counters("tiny", "1"), largest=8)
    request = Request(steps=np.array([[3]]))
    made.execute([request])
    assert request.sender.over.wait(30) and asked == [0, 0, 0]
    made.close()
    sampler.close()


def test_a_full_queue_and_a_cancelled_request_are_told(serving: Any) -> None:
    long = [Request(steps=np.array([[1000]])) for _ in range(9)]
    serving.execute(long)
    for request in long:
        request.sender.cancelled = True
    assert all(request.sender.over.wait(30) for request in long)
    told = [request.sender.sent[0][0].error.told for request in long]
    full = [code for message, code in told if message.startswith("the queue is full: ")]
    assert len(full) == serving.scheduler.counts["full"] >= 9 - 4 - 2 and set(full) == {"UNAVAILABLE"}
    assert {code for message, code in told if not message.startswith("the queue is full: ")} == {"CANCELLED"}


def test_the_end_answers_what_runs_and_reports_all_steps(serving: Any) -> None:
    request = Request(steps=np.array([[1000]]))
    serving.execute([request])
    time.sleep(0.05)
    serving.close()
    assert "the server is ending" in request.sender.sent[0][0].error.told[0]
    assert Metrics.found["dashdeploy_image_steps"] == Metrics.found["dashdeploy_wasted_image_steps"] > 0
    assert not any(thread.name == "steps" for thread in threading.enumerate())


def test_a_server_that_never_takes_an_answer_does_not_keep_the_model_from_ending(
    serving: Any, steps: Any, pb_utils: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "END_S", 0.2)
    request, never = Request(steps=np.array([[1]])), threading.Event()
    request.sender.send = lambda *_, **__: never.wait(30)  # type: ignore[method-assign]
    serving.execute([request])
    time.sleep(0.2)
    begin = time.monotonic()
    serving.close()
    assert time.monotonic() - begin < 5
    assert pb_utils.lines == ["answers did not end within 0.2 s: the server does not answer it"]
    never.set()


def test_without_a_table_one_is_measured_and_logged(steps: Any, model_sampler: ModuleType, tiny_run: Path) -> None:
    sampler = model_sampler.Sampler(tiny_run / "artifacts" / "onnx-cpu", threads=1)
    made = steps.Steps(sampler, {}, steps.Counters("tiny", "1"), largest=8)
    (line,) = sys.modules["triton_python_backend_utils"].lines
    assert line.startswith('step_times {"1": ') and line.endswith(f" (ms by batch size): {made.times.places} places")
    assert made.times.sizes == (1, 2, 4, 8) and made.execute([]) == []
    made.close()
    sampler.close()
