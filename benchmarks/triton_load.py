"""Load on a Triton server: clients that ask one request after the other, and requests that arrive by chance."""

from __future__ import annotations

import heapq
import threading
import time
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from tritonclient import grpc

WORKLOADS: dict[str, tuple[int, ...]] = {"mixed": (10, 20, 50), "few": (1, 2, 4)}
"""Name -> the numbers of steps that requests ask for, each as often as the others."""
PATIENCE_S = 120.0
"""For the last answers of an open loop."""


@dataclass(frozen=True)
class Target:
    """A model of a server, and how many classes it has."""

    url: str
    model: str
    num_classes: int


def request(generator: np.random.Generator, steps: int, num_classes: int) -> list[Any]:
    """A label, a guidance scale and a seed at random; steps 0: the artifact's."""
    values = {
        "label": ("INT64", generator.integers(0, num_classes, (1, 1))),
        "guidance": ("FP32", generator.uniform(1, 4, (1, 1)).astype(np.float32)),
        "seed": ("UINT64", generator.integers(0, 2**32, (1, 1)).astype(np.uint64)),
    }
    if steps:
        values["steps"] = ("INT64", np.array([[steps]]))
    tensors = []
    for name, (kind, array) in values.items():
        tensors.append(grpc.InferInput(name, [1, 1], kind))
        tensors[-1].set_data_from_numpy(array)
    return tensors


Latency = tuple[int, float]
"""The steps of a request, 0 where it asked for none, and the seconds to its answer."""


def summary(latencies: list[Latency], took: float, **counts: int) -> dict[str, float]:
    """Images a second, and milliseconds of the half and of all but the slowest hundredth: of all, and by steps."""
    found: dict[str, float] = {"images_per_s": len(latencies) / took}
    for steps in (None, *sorted({steps for steps, _ in latencies} - {0})):
        these = [latency for of, latency in latencies if steps in (None, of)]
        p50, p99 = 1e3 * np.percentile(these, [50, 99])
        suffix = "" if steps is None else f"_{steps}"
        found |= {f"p50_ms{suffix}": float(p50), f"p99_ms{suffix}": float(p99)}
    return {**found, "count": len(latencies), **counts}


def closed(target: Target, workload: str | None, clients: int, seconds: float, *, seed: int) -> dict[str, float]:
    """Clients that each send the next request when the last is answered; workload None: all of the artifact's steps."""
    latencies: list[Latency] = []
    stop = time.perf_counter() + seconds

    def work(number: int) -> None:
        generator = np.random.default_rng([seed, number])
        with grpc.InferenceServerClient(target.url) as client:
            while time.perf_counter() < stop:
                steps = int(generator.choice(WORKLOADS[workload])) if workload else 0
                tensors = request(generator, steps, target.num_classes)
                start = time.perf_counter()
                client.infer(target.model, tensors)
                latencies.append((steps, time.perf_counter() - start))

    start = time.perf_counter()
    threads = [threading.Thread(target=work, args=(i,)) for i in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return summary(latencies, time.perf_counter() - start)


@dataclass
class Flight:
    """The requests of an open loop that are on their way."""

    latencies: list[Latency] = field(default_factory=list)
    cancelled: int = 0
    failed: int = 0
    open: int = 0
    changed: threading.Condition = field(default_factory=threading.Condition)

    def sent(self) -> None:
        with self.changed:
            self.open += 1

    def answered(self, due: float, error: Any, steps: int = 0) -> None:
        now = time.perf_counter()
        with self.changed:
            self.open -= 1
            if error is None:
                self.latencies.append((steps, now - due))
            elif "cancelled" in str(error).lower():
                self.cancelled += 1
            else:
                self.failed += 1
            self.changed.notify_all()


def _answered(flight: Flight, due: float, steps: int, result: Any, error: Any) -> None:
    flight.answered(due, error, steps)


def opened(
    target: Target,
    workload: str,
    rate: float,
    seconds: float,
    *,
    seed: int,
    cancel_share: float = 0.0,
    cancel_within_s: float = 0.0,
) -> dict[str, float]:
    """Requests that arrive by chance (Poisson) at a rate, whatever the server does.

    A latency counts from the time at which a request was due, so that a late sender does not hide a slow server.

    Args:
        rate: requests a second.
        cancel_share: of the requests, which are cancelled at a random time, at most cancel_within_s after they came.
    """
    generator, flight = np.random.default_rng([seed, 1]), Flight()
    cancels: list[tuple[float, int, Any]] = []

    def cancel_until(end: float) -> None:
        """Wait, and cancel what is due before."""
        while cancels and cancels[0][0] < end:
            when, _, call = heapq.heappop(cancels)
            time.sleep(max(0.0, when - time.perf_counter()))
            call.cancel()
        time.sleep(max(0.0, end - time.perf_counter()))

    with grpc.InferenceServerClient(target.url) as client:
        start = due = time.perf_counter()
        number = 0
        while (due := due + generator.exponential(1 / rate)) < start + seconds:
            steps = int(generator.choice(WORKLOADS[workload]))
            tensors = request(generator, steps, target.num_classes)
            gone, after = generator.random() < cancel_share, generator.uniform(0, cancel_within_s)
            cancel_until(due)
            flight.sent()
            call = client.async_infer(target.model, tensors, callback=partial(_answered, flight, due, steps))
            number += 1
            if gone:
                heapq.heappush(cancels, (due + after, number, call))
        cancel_until(time.perf_counter() + (cancel_within_s if cancels else 0.0))
        with flight.changed:
            flight.changed.wait_for(lambda: flight.open == 0, PATIENCE_S)
            lost = flight.open
        took = time.perf_counter() - start
    return summary(flight.latencies, took, cancelled=flight.cancelled, failed=flight.failed, lost=lost)


def to_a_free_place(target: Target, places: int, *, steps: int, cancel: bool) -> float:
    """Milliseconds to the image of one step, while long requests hold the places.

    Args:
        steps: of the long requests.
        cancel: all places are held, and the time counts from cancelling one of them; else one place is free.
    """
    generator, done = np.random.default_rng(0), threading.Event()
    flight = Flight()

    def told(result: Any, error: Any) -> None:
        flight.answered(0.0, error)

    with grpc.InferenceServerClient(target.url) as client:
        calls = []
        for _ in range(places if cancel else places - 1):
            flight.sent()
            calls.append(client.async_infer(target.model, request(generator, steps, target.num_classes), callback=told))
        time.sleep(0.1)
        start = time.perf_counter()
        client.async_infer(
            target.model, request(generator, 1, target.num_classes), callback=lambda result, error: done.set()
        )
        if cancel:
            time.sleep(0.05)
            start = time.perf_counter()
            calls.pop().cancel()
        if not done.wait(PATIENCE_S):
            raise TimeoutError("the request of one step was not answered")
        took = time.perf_counter() - start
        for call in calls:
            call.cancel()
        with flight.changed:
            flight.changed.wait_for(lambda: flight.open == 0, PATIENCE_S)
    return 1e3 * took
