"""The artifact behind the served model: checked against its contract, opened in ONNX Runtime, run step by step.

What it runs is in the artifact's manifest: timesteps, guidance scales, and how a batch is cut over threads.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import checked
import numpy as np
import reader

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before ONNX Runtime starts
import onnxruntime

CPU = "CPUExecutionProvider"


class Sampler:
    """noise (B, C, H, W) float32, y (B,) int64, w (B, N) float32 -> images (B, C, H, W) float32 and `bad` (B,) int64.

    Images lie in [−1, 1] where the manifest's clip_sample is true, or a decoder makes them; latents without a decoder
    are given as the last step leaves them.
    bad: the first step, from 0, that gave an image a value which is not finite, N: the decoder did; −1: none did.

    DDIM with η = 0: the step graph makes one update, and the loop over the timesteps is here. Of a consistency student
    each update goes to a clean image, and noise (B, N, C, H, W) has what takes it to the next timestep
    (arXiv:2303.01469, Algorithm 1). On CPUs a batch is cut
    over the threads, and each part runs all its steps on one thread. The operators of a batch of fewer images than
    threads are shared by the threads, unless the manifest's host.small says that they are too short for that.

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
        if plan["solver"] not in ("ddim", "consistency"):
            raise ValueError(
                f"{folder}: its recipe samples with {plan['solver']}, and this model runs only ddim and consistency"
            )
        if artifact["backend"] != "onnxruntime":
            raise ValueError(f"{folder}: its backend is {artifact['backend']}, and this model runs only onnxruntime")
        self.image_shape, self.num_classes = tuple(artifact["image_shape"]), artifact["num_classes"]
        self.timesteps: list[int] = plan["timesteps"]
        self.fresh = plan["solver"] == "consistency"
        self.noise_shape = (len(self.timesteps), *self.image_shape) if self.fresh else self.image_shape
        self.alphas_cumprod = np.cumprod(1.0 - np.asarray(artifact["betas"])).astype(np.float32)
        self.guidance_scales = np.asarray(plan["guidance_scales"], np.float32)
        self.guidance_range: list[float] | None = artifact["guidance_range"]
        self.inputs = [tensor["name"] for tensor in graph["inputs"]]
        self.threads = threads if artifact["providers"][0] == CPU else 1
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
        if len(y) < self.threads and self.whole is not self.part:
            return self._draw(self.whole, noise, y, w)
        parts = min(self.threads, len(y))
        if parts == 1:
            return self._draw(self.part, noise, y, w)
        cut = [np.array_split(array, parts) for array in (noise, y, w)]
        images, bad = zip(*self.pool.map(self._draw, [self.part] * parts, *cut), strict=True)
        return np.concatenate(images), np.concatenate(bad)

    def _draw(
        self, sessions: tuple[Any, Any], noise: np.ndarray, y: np.ndarray, w: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        session, decoder = sessions
        x, bad = np.ascontiguousarray(noise[:, 0]) if self.fresh else noise, np.full(len(y), -1)
        for i, (now, after) in enumerate(zip(self.timesteps, [*self.timesteps[1:], -1], strict=True)):
            t, t_prev = np.full_like(y, now), np.full_like(y, -1 if self.fresh else after)
            feeds = (x, t, t_prev, y, np.ascontiguousarray(w[:, i]))
            x = session.run(None, dict(zip(self.inputs, feeds, strict=True)))[0]
            finite = np.isfinite(x.reshape(len(y), -1)).all(1)
            bad[~finite & (bad < 0)] = i
            if self.fresh and after >= 0:
                alpha_bar = self.alphas_cumprod[after]
                x = np.sqrt(alpha_bar) * x + np.sqrt(1 - alpha_bar) * noise[:, i + 1]
        if self.decoder is not None:
            x = np.concatenate([self._decode(decoder, part) for part in cut_up(x, self.decoder["at_once"])])
            bad[~np.isfinite(x.reshape(len(y), -1)).all(1) & (bad < 0)] = len(self.timesteps)
        return x, bad

    def _decode(self, decoder: Any, latents: np.ndarray) -> np.ndarray:
        images: np.ndarray = decoder.run(None, {"latents": np.ascontiguousarray(latents)})[0]
        return images.astype(np.float32) / 127.5 - 1 if images.dtype == np.uint8 else images

    def close(self) -> None:
        """Release the threads."""
        self.pool.shutdown()


def cut_up(array: np.ndarray, most: int) -> list[np.ndarray]:
    """The array in parts of at most so many rows."""
    return [array[first : first + most] for first in range(0, len(array), most)]


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
