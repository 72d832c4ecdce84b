"""The C interface through ctypes: structs and calls as dashdeploy.h declares them."""

from __future__ import annotations

import ctypes as c
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

STATUSES = (
    "ok",
    "argument",
    "not_found",
    "damaged",
    "unsupported",
    "backend",
    "memory",
    "cancelled",
    "internal",
    "not_finite",
    "busy",
    "deadline",
)
KINDS = {"default": 0, "constant": 1, "tag": 2, "interval": 3, "schedule": 4}
PROGRESS = c.CFUNCTYPE(c.c_int, c.c_void_p, c.c_int64, c.c_int64)
PREVIEW = c.CFUNCTYPE(None, c.c_void_p, c.c_int64, c.c_int64, c.POINTER(c.c_float))


class Message(c.Structure):
    _fields_ = (("text", c.c_char * 1024),)


class OpenOptions(c.Structure):
    _fields_ = (
        ("size", c.c_size_t),
        *((name, c.c_int32) for name in ("threads", "device", "max_batch")),
        ("public_key", c.c_char_p),
        ("max_waiting", c.c_int32),
        ("reserved", c.c_int32),
    )


class Info(c.Structure):
    _fields_ = (
        ("size", c.c_size_t),
        *((name, c.c_char_p) for name in ("name", "backend", "precision")),
        *((name, c.c_int64) for name in ("channels", "height", "width")),
        *((name, c.c_int64) for name in ("num_classes", "num_train_timesteps", "num_inference_steps")),
        *((name, c.c_int64) for name in ("max_batch", "parameters")),
        ("solver", c.c_char_p),
        *((name, c.c_int32) for name in ("latents", "decodes")),
        *((name, c.c_int64) for name in ("image_channels", "image_height", "image_width")),
    )


class Guidance(c.Structure):
    _fields_ = (
        ("kind", c.c_int),
        *((name, c.c_double) for name in ("w", "w_min", "beta", "low", "high")),
        ("schedule", c.c_void_p),
    )


class Timing(c.Structure):
    _fields_ = (("loop_ms", c.c_double), ("backend_ms", c.c_double), ("steps", c.c_int64))


class Request(c.Structure):
    _fields_ = (
        ("size", c.c_size_t),
        ("count", c.c_int64),
        ("labels", c.c_void_p),
        ("noise", c.c_void_p),
        ("seed", c.c_uint64),
        ("first_image", c.c_uint64),
        ("steps", c.c_int32),
        ("guidance", Guidance),
        ("progress", PROGRESS),
        ("user", c.c_void_p),
        ("timing", c.POINTER(Timing)),
        ("latents", c.c_int32),
        ("preview_every", c.c_int32),
        ("preview", PREVIEW),
        ("deadline_ms", c.c_int64),
    )


class StatusError(Exception):
    """A call's status other than ok, and its message."""

    def __init__(self, status: str, text: str) -> None:
        super().__init__(f"{status}: {text}")
        self.status, self.text = status, text


def guidance(kind: str = "default", schedule: NDArray[np.float32] | None = None, **values: float) -> Guidance:
    return Guidance(kind=KINDS[kind], schedule=None if schedule is None else schedule.ctypes.data, **values)


class Library:
    """libdashdeploy.so."""

    def __init__(self, path: Path) -> None:
        self.dll = c.CDLL(str(path))
        for name in ("dd_status_name", "dd_version", "dd_backends", "dd_class_name"):
            getattr(self.dll, name).restype = c.c_char_p

    def call(self, name: str, *arguments: Any) -> None:
        message = Message()
        status = getattr(self.dll, name)(*arguments, c.byref(message))
        text = message.text.decode("utf-8")  # strictly: a message is always valid UTF-8
        assert (status == 0) == (text == ""), (status, text)
        if status:
            raise StatusError(STATUSES[status], text)

    def noise(self, seed: int, first: int, count: int, size: int) -> NDArray[np.float32]:
        out = np.empty((count, size), np.float32)
        pointer = c.c_void_p(out.ctypes.data)
        self.call("dd_noise", c.c_uint64(seed), c.c_uint64(first), c.c_int64(count), c.c_int64(size), pointer)
        return out

    def noises(self, seed: int, first: int, count: int, steps: int, size: int) -> NDArray[np.float32]:
        out = np.empty((count, max(steps, 1), size), np.float32)
        sizes = (c.c_int64(count), c.c_int32(steps), c.c_int64(size))
        self.call("dd_noises", c.c_uint64(seed), c.c_uint64(first), *sizes, c.c_void_p(out.ctypes.data))
        return out


class Model:
    """An opened artifact; a context manager."""

    def __init__(self, library: Library, folder: Path, **options: Any) -> None:
        self.library, self.handle = library, c.c_void_p()
        chosen = OpenOptions(size=c.sizeof(OpenOptions), **options)
        library.call("dd_open", str(folder).encode(), c.byref(chosen), c.byref(self.handle))
        self.info = Info(size=c.sizeof(Info))
        library.call("dd_get_info", self.handle, c.byref(self.info))
        self.noise_shape = (self.info.channels, self.info.height, self.info.width)
        self.image_shape = (self.info.image_channels, self.info.image_height, self.info.image_width)

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.library.dll.dd_close(self.handle)

    def sample(
        self,
        labels: NDArray[np.int64],
        /,
        *,
        noise: NDArray[np.float32] | None = None,
        scale: Guidance | None = None,
        progress: Callable[[int, int], int] | None = None,
        **fields: Any,
    ) -> NDArray[np.float32]:
        out, request = self._request(labels, noise=noise, scale=scale, progress=progress, **fields)
        self.library.call("dd_sample", self.handle, c.byref(request), c.c_void_p(out.ctypes.data))
        return out

    def submit(self, labels: NDArray[np.int64], /, **fields: Any) -> Ticket:
        """dd_submit, with the arguments of `sample` and preview(image, step, x_0)."""
        return Ticket(self, *self._request(labels, **fields))

    def _request(
        self,
        labels: NDArray[np.int64],
        /,
        *,
        noise: NDArray[np.float32] | None = None,
        scale: Guidance | None = None,
        progress: Callable[[int, int], int] | None = None,
        preview: Callable[[int, int, NDArray[np.float32]], None] | None = None,
        **fields: Any,
    ) -> tuple[NDArray[np.float32], Request]:
        labels = np.ascontiguousarray(labels, np.int64)
        shape = self.noise_shape if fields.get("latents") else self.image_shape
        out = np.empty((len(labels), *shape), np.float32)
        request = Request(size=c.sizeof(Request), count=len(labels), labels=labels.ctypes.data)
        request.kept = labels, noise, scale  # as long as the request
        request.guidance = scale or guidance()
        if noise is not None:
            request.noise = noise.ctypes.data
        if progress is not None:
            request.progress = PROGRESS(lambda user, done, total: progress(done, total))
        if preview is not None:
            request.preview = PREVIEW(
                lambda user, image, step, x_0: preview(image, step, np.ctypeslib.as_array(x_0, shape).copy())
            )
        for name, value in fields.items():
            setattr(request, name, value)
        return out, request

    def plan(self, steps: int, scale: Guidance) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        count = steps or self.info.num_inference_steps
        t, t_prev, w = np.empty(count, np.int64), np.empty(count, np.int64), np.empty(count, np.float32)
        pointers = [c.c_void_p(array.ctypes.data) for array in (t, t_prev, w)]
        self.library.call("dd_plan", self.handle, c.c_int32(steps), c.byref(scale), *pointers)
        return t, t_prev, w

    def decode(self, latents: NDArray[np.float32]) -> NDArray[np.float32]:
        out = np.empty((len(latents), *self.image_shape), np.float32)
        pointers = [c.c_void_p(array.ctypes.data) for array in (latents, out)]
        self.library.call("dd_decode", self.handle, c.c_int64(len(latents)), *pointers)
        return out

    def step(self, x: NDArray, t: NDArray, t_prev: NDArray, labels: NDArray, w: NDArray) -> None:
        pointers = [c.c_void_p(array.ctypes.data) for array in (x, t, t_prev, labels, w)]
        self.library.call("dd_step", self.handle, c.c_int64(len(x)), *pointers)


class Ticket:
    """A request of dd_submit."""

    def __init__(self, model: Model, images: NDArray[np.float32], request: Request) -> None:
        self.library, self.images, self.request = model.library, images, request
        self.handle = c.c_void_p()
        pointers = (c.c_void_p(images.ctypes.data), c.byref(self.handle))
        self.library.call("dd_submit", model.handle, c.byref(request), *pointers)

    def wait(self, timeout_ms: int = -1) -> NDArray[np.float32] | None:
        """The images; None: it has not ended within the time."""
        ended = c.c_int32(-1)
        try:
            self.library.call("dd_wait", self.handle, c.c_int64(timeout_ms), c.byref(ended))
        finally:
            assert ended.value in (0, 1)
        return self.images if ended.value else None

    def cancel(self) -> None:
        self.library.dll.dd_cancel(self.handle)
