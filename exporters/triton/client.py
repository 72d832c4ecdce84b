"""Ask a Triton server for images and write them as one picture: python client.py --labels 0,1,2 --out images.png

Needs tritonclient: pip install 'tritonclient[http,grpc]'. Image number i is image number i of `dashdeploy sample` with
the same seed, whatever the server's backend and batches. A model with previews streams: it takes --protocol grpc and
--preview-every, and what is not done is cancelled by Ctrl-C or --cancel-after.
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import struct
import sys
import threading
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import noise
import numpy as np
import stream

TYPES = {"float32": "FP32", "int64": "INT64", "uint64": "UINT64", "object": "BYTES"}
PORTS = {"http": 8000, "grpc": 8001}


class Model:
    """One model of a server, for several threads: each has its own connection."""

    def __init__(self, url: str, name: str, *, protocol: str, timeout_s: float) -> None:
        self.protocol = importlib.import_module(f"tritonclient.{protocol}")
        self.url, self.name, self.timeout_s, self.is_grpc = url, name, timeout_s, protocol == "grpc"
        self._local, self._clients = threading.local(), list[Any]()
        if not self.client.is_server_ready():
            raise SystemExit(f"error: the server at {url} is not ready")
        if not self.client.is_model_ready(name):
            raise SystemExit(f"error: the server at {url} has no model {name!r} that is ready; its log says why")
        answer = self.client.get_model_config(name, **({"as_json": True} if self.is_grpc else {}))
        config = answer["config"] if self.is_grpc else answer
        self.streams = bool(config.get("model_transaction_policy", {}).get("decoupled"))
        if self.streams and not self.is_grpc:
            raise SystemExit(f"error: the model {name!r} gives previews, by gRPC streams only: add --protocol grpc")
        # gRPC gives 64-bit numbers as strings.
        self.inputs = {tensor["name"]: [int(d) for d in tensor["dims"]] for tensor in config["input"]}
        self.output = config["output"][0]["name"]
        self.image_shape = [int(d) for d in config["output"][0]["dims"]]
        values = {key: value["string_value"] for key, value in config["parameters"].items()}
        self.classes: list[str] = json.loads(values["classes"])
        self.guidance: list[float] = json.loads(values["guidance"])
        self.guidance_range: list[float] | None = json.loads(values.get("guidance_range", "null"))

    @property
    def client(self) -> Any:
        """This thread's connection."""
        if not hasattr(self._local, "client"):
            options = {} if self.is_grpc else {"connection_timeout": self.timeout_s, "network_timeout": self.timeout_s}
            self._local.client = self.protocol.InferenceServerClient(self.url, **options)
            self._clients.append(self._local.client)
        return self._local.client

    def close(self) -> None:
        """Close every connection: a server that is asked to end waits for them."""
        for client in self._clients:
            client.close()

    def infer(
        self,
        arrays: dict[str, np.ndarray],
        *,
        deadline_s: float | None = None,
        on_preview: Callable[[int, np.ndarray], None] = lambda step, image: None,
        stop: threading.Event | None = None,
    ) -> np.ndarray:
        """One request of one image: arrays without a batch dimension in, (C, H, W) out.

        Args:
            deadline_s: the server gives up then, or with its dynamic batches, where these were told to.
            on_preview: of a model that streams: takes the steps that are done and x_0 (C, H, W) as it is guessed.
            stop: of a model that streams: where it is set, the request is cancelled.
        """
        inputs = []
        for name, array in arrays.items():
            inputs.append(self.protocol.InferInput(name, [1, *array.shape], TYPES[array.dtype.name]))
            inputs[-1].set_data_from_numpy(array[None])
        deadline_us = None if deadline_s is None else round(1e6 * deadline_s)
        if self.streams:
            told = dict(timeout_s=self.timeout_s, deadline_us=deadline_us, stop=stop)
            return stream.ask(self.client, self.name, inputs, on_preview=lambda _, *a: on_preview(*a), **told)[0]
        options = {"client_timeout": self.timeout_s} if self.is_grpc else {}
        return self.client.infer(self.name, inputs, timeout=deadline_us, **options).as_numpy(self.output)[0]

    def request(
        self, label: int, w: list[float] | None, *, seed: int, index: int, more: dict[str, np.ndarray] | None = None
    ) -> dict[str, np.ndarray]:
        """The inputs that this model takes: a seed where the server draws the noise, else the noise.

        Args:
            w: None: the server's, for the steps that are asked for.
            more: inputs that it may leave out: steps, solver, preview_every.

        Raises:
            SystemExit: the model has no such input.
        """
        more = more or {}
        if missing := [name for name in more if name not in self.inputs]:
            raise SystemExit(
                f"error: the model {self.name!r} has no input {missing[0]}; its inputs are {', '.join(self.inputs)}"
            )
        if "label" in self.inputs:
            numbers = {"label": np.array([label])} | ({} if w is None else {"guidance": np.array(w, np.float32)})
            return numbers | {"seed": np.array([seed], np.uint64), "index": np.array([index], np.uint64)} | more
        w = self.guidance if w is None else w
        n = self.inputs["w"][0]
        shape = self.inputs["noise"]
        size = int(np.prod(shape[-3:]))  # of some solvers one noise for each step
        drawn = noise.normal(seed, index, 1, size, steps=int(np.prod(shape)) // size).reshape(shape)
        scales = np.ascontiguousarray(np.broadcast_to(np.array(w, np.float32), (n,)))
        return {"noise": drawn, "y": np.array([label]), "w": scales}


def to_uint8(images: np.ndarray) -> np.ndarray:
    """[−1, 1] -> 0..255, rounded to nearest; bytes as they are.

    Raises:
        ValueError: a value is not finite.
    """
    if not np.isfinite(images).all():
        raise ValueError("an image is not finite: guidance may be too large")
    return images if images.dtype == np.uint8 else ((images + 1) * 127.5).round().clip(0, 255).astype(np.uint8)


def grid(images: np.ndarray, columns: int) -> np.ndarray:
    """(N, C, H, W) -> (rows·H, columns·W, C); black fills the last row."""
    n, c, h, w = images.shape
    rows = -(-n // columns)
    padded = np.zeros((rows * columns, c, h, w), images.dtype)
    padded[:n] = images
    return padded.reshape(rows, columns, c, h, w).transpose(0, 3, 1, 4, 2).reshape(rows * h, columns * w, c)


def write_picture(path: Path, pixels: np.ndarray) -> None:
    """(H, W, 1 or 3) uint8 as PNG, or as PGM or PPM if the name ends in .pgm or .ppm."""
    h, w, c = pixels.shape
    if c not in (1, 3):
        raise SystemExit(f"error: images of {c} channels make no picture; --out takes 1 or 3")
    if path.suffix in (".pgm", ".ppm"):
        path.write_bytes(b"P%d\n%d %d\n255\n" % (5 if c == 1 else 6, w, h) + pixels.tobytes())
        return
    lines = b"".join(b"\0" + row.tobytes() for row in pixels)
    head = struct.pack(">IIBBBBB", w, h, 8, 0 if c == 1 else 2, 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(lines)), (b"IEND", b""))
    chunks = (struct.pack(">I", len(b)) + k + b + struct.pack(">I", zlib.crc32(k + b)) for k, b in parts)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


def find_labels(text: str, classes: list[str]) -> list[int]:
    """Labels from numbers, ranges (0-9) or names of classes, separated by commas."""
    labels: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if part in classes:
            labels.append(classes.index(part))
        elif first.isdecimal() and (last.isdecimal() if dash else True):
            labels += range(int(first), int(last or first) + 1)
        else:
            known = ", ".join(classes)
            raise SystemExit(f"error: no class {part!r}; expected 0 … {len(classes) - 1} or one of {known}")
    return labels


def check_guidance(w: list[float], span: list[float] | None) -> None:
    """Refuse scales that a student of one branch was not trained for; the whole-sampler graph takes any."""
    if span is not None and not all(span[0] <= scale <= span[1] for scale in w):
        raise SystemExit(
            f"error: guidance must be within {span[0]:g} … {span[1]:g}: the student has one branch, trained for these"
        )


def options() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description="Ask a Triton server for images, one request each, all at once.")
    parser.add_argument("--url", help="HOST:PORT without http:// (default: 127.0.0.1:8000, for gRPC 127.0.0.1:8001)")
    parser.add_argument("--protocol", choices=["http", "grpc"], default="http")
    parser.add_argument("--model", default="{{model}}", help="default: %(default)s")
    parser.add_argument("--labels", default="0", help="numbers, ranges or class names, as in 0-9,3 (default: 0)")
    parser.add_argument("--guidance", help="w, or one w for each step with commas between (default: the recipe's)")
    parser.add_argument("--steps", type=int, help="of each image (default: the artifact's)")
    parser.add_argument("--solver", help="ddim, dpmpp_2m or consistency (default: the artifact's)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--concurrency", type=int, default=16, help="requests at a time (default: %(default)s)")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds for a request (default: %(default)s)")
    parser.add_argument("--deadline", type=float, help="seconds after which the server gives a request up")
    parser.add_argument("--preview-every", type=int, help="steps from one preview to the next: OUT-step-5.png, …")
    parser.add_argument("--cancel-after", type=float, help="seconds after which what is not done is cancelled")
    parser.add_argument("--columns", type=int, default=10, help="of the picture (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="picture to write: .png, .pgm or .ppm")
    return parser


def extra(asked: argparse.Namespace) -> dict[str, np.ndarray]:
    """The inputs of a request that its command line may leave out."""
    numbers = {"steps": asked.steps, "preview_every": asked.preview_every}
    made = {name: np.array([value]) for name, value in numbers.items() if value is not None}
    return made if asked.solver is None else made | {"solver": np.array([asked.solver.encode()], object)}


def draw(asked: argparse.Namespace) -> tuple[np.ndarray, list[float], dict[int, dict[int, np.ndarray]]]:
    """All images in order, each request's seconds, and the previews: steps that were done -> image's number -> x_0."""
    model = Model(asked.url, asked.model, protocol=asked.protocol, timeout_s=asked.timeout)
    labels = find_labels(asked.labels, model.classes)
    w = [float(value) for value in asked.guidance.split(",")] if asked.guidance else None
    check_guidance(w or [], model.guidance_range)
    more, stop, previews = extra(asked), threading.Event(), dict[int, dict[int, np.ndarray]]()

    def one(index: int) -> tuple[np.ndarray, float]:
        arrays = model.request(labels[index], w, seed=asked.seed, index=index, more=more)
        if stop.is_set():
            raise stream.Cancelled
        start = time.perf_counter()

        def keep(step: int, image: np.ndarray) -> None:
            previews.setdefault(step, {})[index] = image
            print(f"image {index}: preview at step {step} after {time.perf_counter() - start:.3f} s", file=sys.stderr)

        image = model.infer(arrays, deadline_s=asked.deadline, on_preview=keep, stop=stop)
        return image, time.perf_counter() - start

    if asked.cancel_after is not None:
        timer = threading.Timer(asked.cancel_after, stop.set)
        timer.daemon = True
        timer.start()
    try:
        with ThreadPoolExecutor(asked.concurrency) as pool:
            try:
                images, times = zip(*pool.map(one, range(len(labels))), strict=True)
            except BaseException:  # Ctrl-C too: the server need not finish what nobody waits for
                stop.set()
                raise
    finally:
        model.close()
    return np.stack(images), list(times), previews


def write(asked: argparse.Namespace, images: np.ndarray, previews: dict[int, dict[int, np.ndarray]]) -> None:
    """The picture, and one of the previews at each step; an image whose preview did not come is black."""
    columns = min(asked.columns, len(images))
    for step, found in previews.items():
        shown = np.stack([found.get(i, np.full_like(images[0], -1)) for i in range(len(images))])
        path = asked.out.with_name(f"{asked.out.stem}-step-{step}{asked.out.suffix}")
        write_picture(path, grid(to_uint8(shown), columns))
    write_picture(asked.out, grid(to_uint8(images), columns))


def main() -> int:
    """0: done; 1: the server or the request failed, and one line on stderr says why."""
    asked = options().parse_args()
    asked.url = asked.url or f"127.0.0.1:{PORTS[asked.protocol]}"
    try:
        start = time.perf_counter()
        images, times, previews = draw(asked)
        took = time.perf_counter() - start
    except ImportError as error:
        raise SystemExit(f"error: {error}. Install it with: pip install 'tritonclient[http,grpc]'") from error
    except (KeyboardInterrupt, stream.Cancelled):
        print(f"error: {asked.url}: cancelled before all images were done", file=sys.stderr)
        return 1
    except Exception as error:  # the two protocols' own, and the operating system's
        what = " ".join(str(error).split()) or type(error).__name__
        print(f"error: {asked.url}: {what}", file=sys.stderr)
        return 1
    if asked.out:
        try:
            write(asked, images, previews)
        except (OSError, ValueError) as error:
            raise SystemExit(f"error: {asked.out}: {error}") from error
    p50, worst = 1e3 * statistics.median(times), 1e3 * max(times)
    print(f"{len(images)} images in {took:.3f} s; latency p50 {p50:.1f} ms, longest {worst:.1f} ms")
    return 0


if __name__ == "__main__":
    sys.exit(main())
