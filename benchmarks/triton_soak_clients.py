"""The clients of the soak: they connect, ask for something at random, check what comes, and leave."""

from __future__ import annotations

import http.client
import json
import queue
import random
import threading
import time
from collections import Counter
from typing import Any

import numpy as np
from tritonclient import grpc

KINDS = {"image": 8, "preview": 3, "several": 1, "cancel": 3, "wrong": 2, "late": 1, "burst": 1, "hang up": 1}
"""What a request is, and how often beside the others."""
WRONG = ({"label": 99}, {"steps": 5000}, {"guidance": -2.0}, {"solver": b"euler"}, {"guidance": -1.0})
EXPECTED = {
    "wrong": ("label must be", "steps is", "guidance must be", "solver is"),
    "late": ("not done in the",),
    "full": ("the queue is full",),
}
# By hand: tritonclient's HTTP connections belong to a thread, and are closed in another when they are collected.
TYPES = {"label": np.int64, "steps": np.int64, "preview_every": np.int64, "guidance": np.float32}
NAMES = {"int64": "INT64", "float32": "FP32", "uint64": "UINT64", "object": "BYTES"}
POOL = 40
"""Different images that are asked for; the first answer of each is what later ones must equal."""
SAME = 1e-5
ANSWER_S = 60.0


def arrays(values: dict[str, Any], count: int = 1) -> dict[str, np.ndarray]:
    """A request of `count` equal images, numbered from its index."""
    made = {}
    for name, value in values.items():
        dtype = TYPES.get(name, object if name == "solver" else np.uint64)
        made[name] = np.array([[value + i if name == "index" else value] for i in range(count)], dtype)
    return made


def tensors(given: dict[str, np.ndarray]) -> list[Any]:
    """For gRPC."""
    made = []
    for name, array in given.items():
        made.append(grpc.InferInput(name, list(array.shape), NAMES[array.dtype.name]))
        made[-1].set_data_from_numpy(array)
    return made


def post(connection: http.client.HTTPConnection, given: dict[str, np.ndarray], timeout: int | None) -> np.ndarray:
    """A request over HTTP, as JSON.

    Raises:
        RuntimeError: the server's error.
    """
    inputs = []
    for name, array in given.items():
        data = [value.decode() if isinstance(value, bytes) else value for value in array.ravel().tolist()]
        inputs.append({"name": name, "shape": array.shape, "datatype": NAMES[array.dtype.name], "data": data})
    body = json.dumps({"inputs": inputs, "parameters": {} if timeout is None else {"timeout": timeout}})
    connection.request("POST", "/v2/models/plain/infer", body)
    answer = connection.getresponse()
    told = json.loads(answer.read())
    if answer.status != 200:
        raise RuntimeError(told["error"])
    (image,) = (output for output in told["outputs"] if output["name"] == "image")
    return np.array(image["data"], np.float32).reshape(image["shape"])


class Clients:
    """Threads that ask until they are stopped.

    Attributes:
        counts: requests by what became of them: done, cancelled, hung up, wrong, late and full as expected; lost: no
            answer within a minute; differ: an image that is not the first one of its request; unexpected: any other
            error.
        unexpected: the first of these errors.
    """

    def __init__(self, http_url: str, grpc_url: str, num_classes: int, *, count: int, seed: int) -> None:
        self.urls, self.num_classes = {"http": http_url, "grpc": grpc_url}, num_classes
        self.counts: Counter[str] = Counter()
        self.unexpected: list[str] = []
        self._first: dict[tuple[int, int], np.ndarray] = {}
        self._lock, self._go, self._end = threading.Lock(), threading.Event(), threading.Event()
        self._busy = [threading.Lock() for _ in range(count)]
        self._threads = [threading.Thread(target=self._work, args=(seed, n)) for n in range(count)]

    def start(self) -> None:
        self._go.set()
        for thread in self._threads:
            thread.start()

    def pause(self) -> None:
        """Until `resume` nothing is asked, and no connection is open."""
        self._go.clear()
        for lock in self._busy:  # each holds its own while it is connected
            with lock:
                pass

    def resume(self) -> None:
        self._go.set()

    def stop(self) -> None:
        self._end.set()
        self._go.set()
        for thread in self._threads:
            thread.join()

    def count(self, what: str, error: object = None) -> None:
        with self._lock:
            self.counts[what] += 1
            if what in ("unexpected", "lost") and len(self.unexpected) < 20:
                self.unexpected.append(f"{what}: {error}")

    def _work(self, seed: int, number: int) -> None:
        draw = random.Random(f"{seed} {number}")
        while not self._end.is_set():
            self._go.wait()
            with self._busy[number]:
                self._connect(draw)

    def _connect(self, draw: random.Random) -> None:
        """One connection of a few requests."""
        protocol = draw.choice(("http", "grpc", "stream", "stream"))
        client: Any
        if protocol == "http":
            client = http.client.HTTPConnection(self.urls["http"], timeout=ANSWER_S)
        else:
            client = grpc.InferenceServerClient(self.urls["grpc"])
        try:
            for _ in range(draw.randint(1, 20)):
                if self._end.is_set() or not self._go.is_set():
                    return
                kind = draw.choices(list(KINDS), list(KINDS.values()))[0]
                if self._ask(draw, client, protocol, kind):
                    return  # it hung up
        finally:
            client.close()

    def _values(self, draw: random.Random) -> tuple[tuple[int, int], dict[str, Any]]:
        """One of the images of the pool: its key, and its inputs."""
        index, steps = draw.randrange(POOL), draw.choice((1, 4, 10, 20, 50))
        label, w = index % self.num_classes, 1.0 + index % 4
        values = {"label": label, "guidance": w, "seed": 7, "index": index, "steps": steps}
        return (index, steps), values

    def _ask(self, draw: random.Random, client: Any, protocol: str, kind: str) -> bool:
        """One request; whether its connection is to be closed."""
        key, values = self._values(draw)
        count, timeout = (draw.randint(2, 12) if kind == "several" else 1), None
        if kind == "wrong":
            values |= draw.choice(WRONG)
        if kind in ("cancel", "hang up", "late"):
            values["steps"] = 1000
        if kind == "late":
            timeout = 20_000
        if kind == "burst":
            count, values["steps"] = 60, 20
        if kind == "preview" and protocol == "stream":
            values["preview_every"] = 3
        given = arrays(values, count)
        if protocol == "stream":
            return self._stream(draw, client, tensors(given), timeout, kind, key)
        if protocol == "grpc":
            return self._call(draw, client, tensors(given), timeout, kind, key)
        if kind in ("cancel", "hang up"):
            return False  # HTTP has no way to cancel
        try:
            self._check(kind, key, post(client, given, timeout))
        except TimeoutError as error:
            self.count("lost", error)
            return True
        except (RuntimeError, ValueError, OSError, http.client.HTTPException) as error:
            self._told(kind, error)
        return False

    def _call(
        self, draw: random.Random, client: Any, inputs: list[Any], timeout: int | None, kind: str, key: tuple[int, int]
    ) -> bool:
        """A request without previews, by gRPC."""
        answers: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()
        call = client.async_infer("plain", inputs, lambda result, error: answers.put((result, error)), timeout=timeout)
        if kind in ("cancel", "hang up"):
            time.sleep(draw.uniform(0, 0.1))
            call.cancel()
        return self._await(answers, kind, key)

    def _stream(
        self, draw: random.Random, client: Any, inputs: list[Any], timeout: int | None, kind: str, key: tuple[int, int]
    ) -> bool:
        """A request on a stream of its own."""
        answers: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()
        client.start_stream(callback=lambda result, error: answers.put((result, error)))
        client.async_stream_infer("stream", inputs, timeout=timeout)
        if kind == "hang up":
            time.sleep(draw.uniform(0, 0.1))
            requests = client._stream._request_queue
            client._channel.close()  # as of a client that dies: `close` would wait for the answer
            requests.put(None)
            self.count("hung up")
            return True
        if kind == "cancel":
            time.sleep(draw.uniform(0, 0.1))
            requests = client._stream._request_queue
            client.stop_stream(cancel_requests=True)
            requests.put(None)  # or gRPC's thread, which tritonclient forgets here, would wait for ever
            self.count("cancelled")
            return False
        self._await(answers, kind, key)
        # Not by cancelling: Triton 2.51 loses a request whose stream is cancelled just at its last answer.
        client.stop_stream()
        return False

    def _await(self, answers: queue.SimpleQueue[tuple[Any, Any]], kind: str, key: tuple[int, int]) -> bool:
        """The last answer; previews come before it."""
        end = time.monotonic() + ANSWER_S
        while True:
            try:
                result, error = answers.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                self.count("lost", kind)
                return True
            if error is not None:
                self._told(kind, error)
                return False
            final = result.get_response().parameters
            if "triton_final_response" not in final or final["triton_final_response"].bool_param:
                self._check(kind, key, result.as_numpy("image"))
                return False
            self.count("previews")

    def _check(self, kind: str, key: tuple[int, int], images: np.ndarray) -> None:
        """An image equals the first one of its request."""
        if kind in ("wrong", "late"):
            # A machine may be fast enough for the time that was too little.
            self.count("in time" if kind == "late" else "unexpected", "an image of a wrong request")
            return
        with self._lock:
            first = self._first.setdefault(key, images[0]) if kind in ("image", "preview") else images[0]
        self.count("done" if np.abs(first - images[0]).max() <= SAME else "differ")

    def _told(self, kind: str, error: Any) -> None:
        """Whether this error was to be expected of such a request; a full queue always is."""
        text = str(error)
        if any(part in text for part in EXPECTED["full"]):
            self.count("full")
        elif kind in EXPECTED and any(part in text for part in EXPECTED[kind]):
            self.count(kind)
        elif kind in ("cancel", "hang up") and "cancelled" in text.lower():
            self.count("cancelled")
        else:
            self.count("unexpected", f"{kind}: {text}")
