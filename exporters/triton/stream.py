"""One request to a model that streams: previews as they come, then the image; what is not done can be cancelled.

Each request has a gRPC stream of its own. An error on a stream does not say which request it is of, and only a whole
stream can be cancelled.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

FINAL = "triton_final_response"
LOOK_S = 0.02
"""Between two looks at whether to stop."""


class Cancelled(Exception):
    """The caller stopped the request."""


def ask(
    client: Any,
    name: str,
    inputs: list[Any],
    *,
    timeout_s: float,
    deadline_us: int | None = None,
    on_preview: Callable[[int, int, np.ndarray], None] = lambda number, step, image: None,
    stop: threading.Event | None = None,
) -> np.ndarray:
    """The images of a request, (B, C, H, W).

    Args:
        client: of tritonclient.grpc; this thread's own.
        timeout_s: to wait for the last answer.
        deadline_us: the server gives up after so many microseconds; None: never.
        on_preview: takes an image's number in the request, the steps that are done, and x_0 (C, H, W) as it is guessed.
        stop: where it is set, the request is cancelled.

    Raises:
        Cancelled: by `stop`.
        TimeoutError: no last answer within timeout_s; the request is cancelled.
        tritonclient.utils.InferenceServerException: the server refused it, or is gone.
    """
    answers: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()
    client.start_stream(callback=lambda result, error: answers.put((result, error)))
    over = False
    try:
        client.async_stream_infer(name, inputs, timeout=deadline_us)
        end = time.monotonic() + timeout_s
        while True:
            if stop is not None and stop.is_set():
                raise Cancelled
            if time.monotonic() > end:
                raise TimeoutError(f"no image within {timeout_s:g} s")
            try:
                result, error = answers.get(timeout=LOOK_S)
            except queue.Empty:
                continue
            if error is not None:
                over = True
                raise error
            if result.get_response().parameters[FINAL].bool_param:
                over = True
                images: np.ndarray = result.as_numpy("image")
                return images
            for position, step, image in zip(*map(result.as_numpy, ("position", "step", "image")), strict=True):
                on_preview(int(position[0]), int(step[0]), image)
    finally:
        client.stop_stream(cancel_requests=not over)
