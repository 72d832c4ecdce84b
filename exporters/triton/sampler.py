"""The artifact behind the served model: checked against its hashes, opened in ONNX Runtime, run step by step.

What it runs is in the artifact's manifest: timesteps, guidance scales, and how a batch is cut over threads.
"""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

FORMAT = 4
"""Of the manifests that this module reads."""
CPU = "CPUExecutionProvider"


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of an artifact, checked against its SHA-256, and every file that it lists against the manifest.

    Raises:
        ValueError: a file is missing or was changed, or the manifest has another format.
    """
    path = folder / "manifest.json"
    manifest: dict[str, Any] = json.loads(path.read_bytes())
    if manifest["format"] != FORMAT:
        raise ValueError(f"{path}: format {manifest['format']}; this model reads {FORMAT}. Export the package again.")
    if path.with_name("manifest.json.sha256").read_text() != f"{sha256(path)}  manifest.json\n":
        raise ValueError(f"{path}: changed since it was made (its SHA-256 differs). Export the package again.")
    for name, expected in manifest["files"].items():
        if not (folder / name).is_file() or sha256(folder / name) != expected:
            raise ValueError(f"{folder / name}: missing or changed since it was made. Export the package again.")
    return manifest


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Sampler:
    """noise (B, C, H, W) float32, y (B,) int64, w (B, N) float32 -> images (B, C, H, W) float32 in [−1, 1].

    DDIM with η = 0: the step graph makes one update, and the loop over the timesteps is here. On CPUs a batch is cut
    over the threads, and each part runs all its steps on one thread. The operators of a batch of fewer images than
    threads are shared by the threads, unless the manifest's host.small says that they are too short for that.

    Raises:
        ValueError: the artifact is damaged or of another solver, or ONNX Runtime lacks one of its providers.
    """

    def __init__(self, folder: Path, *, threads: int, device_id: int = 0) -> None:
        artifact = read_manifest(folder)["artifact"]
        graph, plan = artifact["graphs"]["step"], artifact["sampling"]
        if plan["solver"] != "ddim":
            raise ValueError(f"{folder}: its recipe samples with {plan['solver']}, and this model runs only ddim")
        self.image_shape, self.num_classes = tuple(artifact["image_shape"]), artifact["num_classes"]
        self.timesteps: list[int] = plan["timesteps"]
        self.guidance_scales = np.asarray(plan["guidance_scales"], np.float32)
        self.inputs = [tensor["name"] for tensor in graph["inputs"]]
        self.threads = threads if artifact["providers"][0] == CPU else 1

        def session(threads: int) -> Any:
            return open_session(folder / graph["file"], artifact["providers"], threads=threads, device_id=device_id)

        self.part = session(1) if self.threads > 1 else session(threads)
        self.whole = session(threads) if self.threads > 1 and not artifact["host"]["small"] else self.part
        self.pool = ThreadPoolExecutor(self.threads)

    def __call__(self, noise: np.ndarray, y: np.ndarray, w: np.ndarray) -> np.ndarray:
        if len(y) < self.threads and self.whole is not self.part:
            return self._draw(self.whole, noise, y, w)
        parts = min(self.threads, len(y))
        if parts == 1:
            return self._draw(self.part, noise, y, w)
        cut = [np.array_split(array, parts) for array in (noise, y, w)]
        return np.concatenate(list(self.pool.map(self._draw, [self.part] * parts, *cut)))

    def _draw(self, session: Any, noise: np.ndarray, y: np.ndarray, w: np.ndarray) -> np.ndarray:
        x = noise
        for i, (now, previous) in enumerate(zip(self.timesteps, [*self.timesteps[1:], -1], strict=True)):
            t, t_prev = np.full_like(y, now), np.full_like(y, previous)
            feeds = (x, t, t_prev, y, np.ascontiguousarray(w[:, i]))
            x = session.run(None, dict(zip(self.inputs, feeds, strict=True)))[0]
        return np.clip(x, -1, 1)

    def close(self) -> None:
        """Release the threads."""
        self.pool.shutdown()


def open_session(path: Path, providers: list[str], *, threads: int, device_id: int) -> Any:
    """One graph on the artifact's providers, never on others.

    Raises:
        ValueError: ONNX Runtime lacks one of them, or did not take the first.
    """
    available = onnxruntime.get_available_providers()
    if missing := [name for name in providers if name not in available]:
        raise ValueError(f"{path}: ONNX Runtime here has no {', '.join(missing)}; it has {', '.join(available)}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    on_device = [(p, {"device_id": device_id}) if p.startswith(("CUDA", "Tensorrt")) else p for p in providers]
    session = onnxruntime.InferenceSession(str(path), options, providers=on_device)
    if session.get_providers()[0] != providers[0]:
        raise ValueError(f"{path}: asked for {providers[0]} and got {session.get_providers()[0]}")
    return session
