"""Serves requests step by step: Triton's requests into `StepScheduler`, its answers out of it, each when it is done.

Two threads beside the scheduler's keep its steps free of the server: one sends answers, one asks which requests were
cancelled. Either question costs the time of a step of a small student.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

import asked
import numpy as np
import scheduler
import table
import triton_python_backend_utils as pb_utils
from images import Image
from plans import Plan
from sampler import Sampler

CODES = {
    scheduler.INVALID: "INVALID_ARG",
    scheduler.INTERNAL: "INTERNAL",
    scheduler.CANCELLED: "CANCELLED",
    scheduler.LATE: "UNAVAILABLE",
    scheduler.FULL: "UNAVAILABLE",
    scheduler.ENDING: "UNAVAILABLE",
}
"""Refusal -> Triton's code: clients tell a wrong request from one that may be sent again."""
FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
SHARE = 0.02
"""Of the time of one core, that the thread which asks for cancelled requests may use."""
PERIOD_S = 0.25
"""Between two reports to the server's metrics."""
END_S = 2.0
"""For a thread to end. The server's exit timeout is 30 s, and a model that does not end holds up all of it."""
SHARED = "/dev/shm"
"""Answers go through it to the server; Docker and Kubernetes give 64 MB of it, if they are not told otherwise."""
ROOM = 1 << 20
"""Bytes beside the images of an answer."""


def tensors(request: Any) -> dict[str, np.ndarray]:
    """A request's inputs by name."""
    return {one.name(): one.as_numpy() for one in request.inputs()}


def tensor(name: str, array: np.ndarray) -> Any:
    """An output; images are float32."""
    return pb_utils.Tensor(name, np.ascontiguousarray(array, np.float32 if name == "image" else np.int64))


def refused(message: str, code: str = "INVALID_ARG") -> Any:
    """A response that says what is wrong with its request."""
    error = pb_utils.TritonError(message, getattr(pb_utils.TritonError, code))
    return pb_utils.InferenceResponse(output_tensors=[], error=error)


def free_shared() -> int:
    """Free bytes of the shared memory that answers go through; where there is none to ask, more than anyone needs."""
    try:
        found = os.statvfs(SHARED)
    except OSError:
        return 1 << 62
    return found.f_bavail * found.f_frsize


COUNTERS = {
    "image_steps": "Steps that ran, counted for each image",
    "wasted_image_steps": "Steps of images that were cancelled, late or wrong, so that nobody got them",
}


class Counters:
    """Counters of a model at the server's metrics port: steps that ran, and those whose request got no images."""

    def __init__(self, model: str, version: str) -> None:
        labels = {"model": model, "version": version}
        kind = pb_utils.MetricFamily.COUNTER
        self._families = {
            name: pb_utils.MetricFamily(name=f"dashdeploy_{name}", description=what, kind=kind)
            for name, what in COUNTERS.items()
        }
        self._metrics = {name: family.Metric(labels=labels) for name, family in self._families.items()}

    def add(self, **counts: int) -> None:
        for name, count in counts.items():
            if count:
                self._metrics[name].increment(count)


class Line:
    """The way back to one client.

    After the last answer nothing may be asked of its sender: the server then reads memory that it has freed, and ends
    (Triton 2.51). So an answer and a question wait for each other.
    """

    def __init__(self, sender: Any) -> None:
        self._sender, self._lock, self._over = sender, threading.Lock(), False

    def send(self, response: Any, *, last: bool) -> None:
        with self._lock:
            self._over = last
            self._sender.send(response, flags=FINAL if last else 0)

    def is_cancelled(self) -> bool:
        """False where the last answer is on its way."""
        with self._lock:
            return not self._over and bool(self._sender.is_cancelled())


class Steps:
    """The scheduler behind a model.

    Args:
        parameters: of config.pbtxt: max_queue_size, the images that may wait; previews, where responses may be several;
            step_times, a table that was measured before.
        largest: images of a request, and of a step, at most.
    """

    def __init__(self, opened: Sampler, parameters: dict[str, str], counters: Counters, *, largest: int) -> None:
        self.sampler, self.counters = opened, counters
        self.previews = parameters.get("previews") == "true"
        self.times = self._measure(parameters.get("step_times"), largest)
        for size in (1,) if opened.on_cpu else self.times.sizes:  # the decoder's first call is slow
            opened.finish([np.zeros(opened.image_shape, np.float32)] * size)
        most = int(parameters.get("max_queue_size", "0"))
        self.scheduler = scheduler.StepScheduler(
            # A batch that is cut over threads was not measured filled up: there a filler would make a part longer.
            lambda images: opened.move(images, self.times.rows(len(images)) if opened.threads == 1 else 0),
            opened.finish,
            places=self.times.places,
            most_waiting=most or None,
            log=pb_utils.Logger.log_error,
        )
        self._answers: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._lines: dict[scheduler.Ticket, Line] = {}
        self._came, self._ending = threading.Event(), False
        self._reported = dict.fromkeys(COUNTERS, 0)
        self._threads = [
            threading.Thread(target=work, name=name, daemon=True)
            for name, work in (("answers", self._send), ("cancellations", self._watch))
        ]
        for thread in self._threads:
            thread.start()
        self.scheduler.start()

    def execute(self, requests: list[Any]) -> list[Any] | None:
        """Take the requests; their answers come later, by their response senders."""
        for request in requests:
            self._take(request, Line(request.get_response_sender()))
        return None if self.previews else [None] * len(requests)

    def close(self) -> None:
        """Answer what still runs, then end the threads; one that waits for the server in vain is left behind."""
        self.scheduler.close()
        self._ending = True
        self._came.set()
        self._answers.put(None)
        for thread in self._threads:
            thread.join(END_S)
            if thread.is_alive():
                pb_utils.Logger.log_warn(f"{thread.name} did not end within {END_S:g} s: the server does not answer it")
        self._report()

    def _take(self, request: Any, line: Line) -> None:
        given, limit_us = tensors(request), request.timeout()

        def refuse(why: scheduler.Refusal) -> None:
            self._answers.put(lambda: line.send(refused(str(why), CODES[why.kind]), last=True))

        def done(pictures: list[np.ndarray]) -> None:
            self._answers.put(lambda: line.send(self._last(dict(enumerate(pictures)), ran), last=True))

        def preview(number: int, step: int, picture: np.ndarray) -> None:
            self._answers.put(lambda: line.send(self._response({number: picture}, {number: step}), last=False))

        try:
            wanted = asked.read(given, self.sampler)
            ran = {i: len(one.plan.timesteps) for i, one in enumerate(wanted)}
            ticket = self.scheduler.submit(
                scheduler.Request(
                    wanted,
                    on_done=done,
                    on_error=refuse,
                    on_preview=preview if self.previews else None,
                    preview_every=self._every(given),
                    within_s=limit_us / 1e6 if limit_us else None,
                )
            )
        except ValueError as error:
            refuse(scheduler.Refusal(scheduler.INVALID, str(error)))
        except scheduler.Refusal as error:
            refuse(error)
        else:
            self._lines[ticket] = line
            self._came.set()

    def _every(self, given: dict[str, np.ndarray]) -> int:
        asked_for: list[int] = given["preview_every"].ravel().tolist() if "preview_every" in given else [0]
        if min(asked_for) < 0 or len(set(asked_for)) > 1:
            raise ValueError(
                "preview_every must be 0 (none) or a number of steps, the same for all images of a request, got "
                f"{', '.join(map(str, sorted(set(asked_for))))}"
            )
        return asked_for[0]

    def _last(self, pictures: dict[int, np.ndarray], ran: dict[int, int]) -> Any:
        """The last answer. Where there is no room for it, it says so: a sender that failed once sends nothing more."""
        try:
            needed, free = sum(picture.nbytes for picture in pictures.values()) + ROOM, free_shared()
            if needed > free:
                raise MemoryError(
                    f"the images take {needed >> 20} MiB, and {SHARED} has {free >> 20} MiB left. Ask for fewer at a "
                    "time, or start the server with more (docker run --shm-size=1g)"
                )
            return self._response(pictures, ran)
        except Exception as error:
            return refused(f"{type(error).__name__}: {error}", "INTERNAL")

    def _response(self, pictures: dict[int, np.ndarray], ran: dict[int, int]) -> Any:
        """Images by their number in the request; where there are previews, with these numbers and their steps."""
        outputs = [tensor("image", np.stack(list(pictures.values())))]
        if self.previews:
            outputs.append(tensor("position", np.array(list(pictures))[:, None]))
            outputs.append(tensor("step", np.array([ran[number] for number in pictures])[:, None]))
        return pb_utils.InferenceResponse(outputs)

    def _send(self) -> None:
        """Answers in the order in which they were given."""
        while (send := self._answers.get()) is not None:
            try:
                send()
            except Exception as error:  # its client may be gone
                pb_utils.Logger.log_warn(f"an answer was not sent: {error}")

    def _watch(self) -> None:
        """Tell the scheduler of cancelled requests, in rounds that take a small share of the time."""
        reported = time.monotonic()
        while not self._ending:
            if not self._lines:
                self._report()
                self._came.wait()
            self._came.clear()
            begin, used = time.monotonic(), time.thread_time()
            for ticket in list(self._lines):
                if ticket.over:
                    del self._lines[ticket]
                elif not ticket.dropped and self._is_cancelled(self._lines[ticket]):
                    ticket.cancel()
            if begin - reported > PERIOD_S:
                self._report()
                reported = begin
            time.sleep(max(self.times.seconds[0], (time.thread_time() - used) / SHARE))

    def _is_cancelled(self, line: Line) -> bool:
        try:
            return line.is_cancelled()
        except Exception as error:
            pb_utils.Logger.log_warn(f"a request does not say whether it is cancelled: {error}")
            return False

    def _report(self) -> None:
        """What was counted since the last report."""
        counts = {name: self.scheduler.counts[name] for name in COUNTERS}
        self.counters.add(**{name: count - self._reported[name] for name, count in counts.items()})
        self._reported = counts

    def _measure(self, given: str | None, largest: int) -> table.StepTimes:
        """The table of step times; it is logged in the form in which the parameter step_times takes it."""
        only = not self.sampler.on_cpu
        if given is not None:
            return table.parse(given, largest=largest, only=only)
        plan = self.sampler.plans.plan()
        times = table.measure(
            lambda size: self.sampler.move(blank(self.sampler, plan, size)), largest=largest, only=only
        )
        pb_utils.Logger.log_info(f"step_times {times.text()} (ms by batch size): {times.places} places")
        return times


def blank(opened: Sampler, plan: Plan, size: int) -> list[Image]:
    """New images for a trial."""
    noise = np.random.default_rng(0).standard_normal(opened.image_shape).astype(np.float32)
    start = np.broadcast_to(noise, (len(plan.timesteps), *noise.shape)) if plan.solver == "consistency" else noise
    return [Image(start, 0, plan) for _ in range(size)]
