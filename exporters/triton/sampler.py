"""The artifact behind the served model: checked against its contract, opened in ONNX Runtime, run step by step.

What it runs is in the artifact's manifest: what plans there are, and how a batch is cut over threads.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import checked
import images
import numpy as np
import plans
import reader
from images import Image

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before ONNX Runtime starts
import onnxruntime

CPU = "CPUExecutionProvider"


class Sampler:
    """The opened student: draws images of any plan, all their steps at once or step by step.

    The step graph makes one update of each image, and the loop is here; see images.py. On CPUs a batch is cut over the
    threads, and each part runs on one thread. The operators of a batch of fewer images than threads are shared by the
    threads, unless the manifest's host.small says that they are too short for that.

    Args:
        public_key: a minisign public key, or its file, that must have signed the artifact; None: none must.

    Raises:
        ValueError: the artifact is damaged, not signed or of another solver, or ONNX Runtime lacks a provider of it.
    """

    def __init__(self, folder: Path, *, threads: int, device_id: int = 0, public_key: str | None = None) -> None:
        manifest = reader.read_manifest(folder, public_key=public_key)
        artifact = manifest["artifact"]
        graph, plan = artifact["graphs"].get("step"), artifact["sampling"]
        if graph is None:
            raise ValueError(f"{folder}: it has no step graph, which this model runs")
        self.plans = plans.Plans(artifact)
        if plan["solver"] not in self.plans.solvers:
            known = " and ".join(self.plans.solvers)
            raise ValueError(f"{folder}: its recipe samples with {plan['solver']}, and this model runs only {known}")
        if artifact["backend"] != "onnxruntime":
            raise ValueError(f"{folder}: its backend is {artifact['backend']}, and this model runs only onnxruntime")
        self.image_shape, self.num_classes = tuple(artifact["image_shape"]), artifact["num_classes"]
        self.timesteps: list[int] = plan["timesteps"]
        self.guidance_scales = np.asarray(plan["guidance_scales"], np.float32)
        self.inputs = [tensor["name"] for tensor in graph["inputs"]]
        self.on_cpu = artifact["providers"][0] == CPU
        self.threads = threads if self.on_cpu else 1
        self.decoder: dict[str, Any] | None = artifact["decoder"]

        def session(threads: int, graph: dict[str, Any] = graph) -> Any:
            loaded = checked.read_graph(folder, graph["file"], graph["files"], manifest["files"])
            where = folder / graph["file"]
            return open_session(loaded, artifact["providers"], threads=threads, device_id=device_id, what=where)

        def sessions(threads: int) -> tuple[Any, Any]:
            """(of the step, of the decoder)."""
            return session(threads), session(threads, artifact["graphs"]["decoder"]) if self.decoder else None

        self.part = sessions(1) if self.threads > 1 else sessions(threads)
        self.whole = sessions(threads) if self.threads > 1 and not artifact["host"]["small"] else self.part
        self.pool = ThreadPoolExecutor(self.threads)

    def __call__(self, noise: np.ndarray, y: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Images at the artifact's timesteps: noise (B, C, H, W) float32, of a consistency student (B, N, C, H, W),
        y (B,) int64, w (B, N) float32 -> images (B, C, H, W) float32 and `Image.bad` (B,) int64.
        """
        asked = zip(noise, y.tolist(), w, strict=True)
        made = [Image(start, label, self.plans.plan(scales=scales)) for start, label, scales in asked]
        drawn = self.draw(made)
        return np.stack(drawn), np.array([image.bad for image in made])

    def draw(self, made: list[Image]) -> list[np.ndarray]:
        """All steps of new images; those of few steps leave the batch before the others. Then as `finish`."""
        if (sessions := self._sessions(len(made))) is not None:
            return self._draw(sessions, made)
        order = sorted(range(len(made)), key=lambda i: -len(made[i].plan.timesteps))
        cut = [order[k :: self.threads] for k in range(min(self.threads, len(made)))]
        drawn = self.pool.map(lambda part: self._draw(self.part, [made[i] for i in part]), cut)
        found = [pair for part, ones in zip(cut, drawn, strict=True) for pair in zip(part, ones, strict=True)]
        return [image for _, image in sorted(found, key=lambda pair: pair[0])]

    def move(self, running: list[Image], rows: int = 0) -> None:
        """One step of each of the images, which may be of any age; rows: as of `images.step`."""
        size = max(rows, len(running))
        if (sessions := self._sessions(size)) is not None:
            images.step(self._graph(sessions), running, rows=rows)
            return
        parts = min(self.threads, len(running))
        cut = [(running[k::parts], len(range(k, size, parts))) for k in range(parts)]
        graph = self._graph(self.part)
        jobs = [self.pool.submit(images.step, graph, part, rows=share) for part, share in cut[1:]]
        try:
            images.step(graph, cut[0][0], rows=cut[0][1])
        finally:
            wait(jobs)
        for job in jobs:
            job.result()

    def finish(self, samples: list[np.ndarray]) -> list[np.ndarray]:
        """Samples (C, H, W) as they are served: latents are decoded where there is a decoder.

        Images lie in [−1, 1] where the manifest's clip_sample is true, or a decoder makes them; latents without a
        decoder are given as the last step leaves them.
        """
        parts = min(self.threads, len(samples))
        if self.decoder is None or self.whole is not self.part or parts <= 1:
            return self._finish(self.whole, samples)
        decoded = list(self.pool.map(lambda k: self._finish(self.part, samples[k::parts]), range(parts)))
        return [decoded[i % parts][i // parts] for i in range(len(samples))]

    def _sessions(self, size: int) -> tuple[Any, Any] | None:
        """What a batch of this size runs on; None: it is cut over the threads."""
        if size < self.threads and self.whole is not self.part:
            return self.whole
        return self.part if min(self.threads, size) == 1 else None

    def _graph(self, sessions: tuple[Any, Any]) -> Callable[[images.Feeds], np.ndarray]:
        def run(feeds: images.Feeds) -> np.ndarray:
            x_prev: np.ndarray = sessions[0].run(None, dict(zip(self.inputs, feeds, strict=True)))[0]
            return x_prev

        return run

    def _draw(self, sessions: tuple[Any, Any], made: list[Image]) -> list[np.ndarray]:
        graph, running = self._graph(sessions), made
        while running:
            images.step(graph, running)
            running = [image for image in running if not image.done]
        samples = self._finish(sessions, [image.x for image in made])
        for image, sample in zip(made, samples, strict=True):
            if image.bad < 0 and not np.isfinite(sample).all():
                image.bad = len(image.plan.timesteps)
        return samples

    def _finish(self, sessions: tuple[Any, Any], samples: list[np.ndarray]) -> list[np.ndarray]:
        if self.decoder is None:
            return samples
        most = self.decoder["at_once"]
        cut = [np.stack(samples[first : first + most]) for first in range(0, len(samples), most)]
        decoded = [sessions[1].run(None, {"latents": part})[0] for part in cut]
        return [to_float(image) for part in decoded for image in part]

    def close(self) -> None:
        """Release the threads."""
        self.pool.shutdown()


def to_float(image: np.ndarray) -> np.ndarray:
    """A decoded image in [−1, 1], float32, of bytes too."""
    return image.astype(np.float32) / 127.5 - 1 if image.dtype == np.uint8 else image


def open_session(graph: checked.GraphBytes, providers: list[str], *, threads: int, device_id: int, what: Path) -> Any:
    """One graph, from its checked bytes, on the artifact's providers, never on others.

    Raises:
        ValueError: ONNX Runtime lacks one of them, or did not take the first.
    """
    available = onnxruntime.get_available_providers()
    if missing := [name for name in providers if name not in available]:
        raise ValueError(f"{what}: ONNX Runtime here has no {', '.join(missing)}; it has {', '.join(available)}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    if graph.weights:
        sizes = [len(data) for data in graph.weights.values()]
        options.add_external_initializers_from_files_in_memory(list(graph.weights), list(graph.weights.values()), sizes)
    on_device = [(p, {"device_id": device_id}) if p.startswith(("CUDA", "Tensorrt")) else p for p in providers]
    session = onnxruntime.InferenceSession(graph.model, options, providers=on_device)
    if session.get_providers()[0] != providers[0]:
        raise ValueError(f"{what}: asked for {providers[0]} and got {session.get_providers()[0]}")
    return session
