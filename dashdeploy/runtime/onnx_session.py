"""ONNX Runtime sessions over an exported graph, in numpy alone: what an application embeds."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dashdeploy.errors import UserError
from dashdeploy.lazy import require

CPU = ("CPUExecutionProvider",)
GUIDED = ("x", "t", "y", "w")


class OnnxSession:
    """One graph: arrays by input name in, its one output out.

    Raises:
        UserError: onnxruntime or a provider is not installed, or the file is not a whole graph with these inputs.
    """

    def __init__(
        self,
        path: Path,
        *,
        inputs: Sequence[str] = GUIDED,
        threads: int | None = None,
        providers: Sequence[str] = CPU,
        device_id: int = 0,
    ) -> None:
        ort = require("onnxruntime", extra="cpu")
        available = ort.get_available_providers()
        if missing := [p for p in providers if p not in available]:
            extra = " Install it with: pip install 'dashdeploy[gpu]'" if "CUDAExecutionProvider" in missing else ""
            raise UserError(
                f"{path}: ONNX Runtime here has no {', '.join(missing)}; it has {', '.join(available)}.{extra}"
            )
        options = ort.SessionOptions()
        if threads is not None:
            options.intra_op_num_threads = threads
        options.log_severity_level = 3
        on_device = [(p, {"device_id": device_id}) if p.startswith(("CUDA", "Tensorrt")) else p for p in providers]
        try:
            self.session: Any = ort.InferenceSession(str(path), options, providers=on_device)
        except Exception as error:
            raise UserError(
                f"{path}: not a whole ONNX model ({' '.join(str(error).split())[:200]}). Export it again."
            ) from error
        names = {i.name for i in self.session.get_inputs()}
        if names != set(inputs):
            self.close()
            raise UserError(f"{path}: its inputs are {sorted(names)}; expected {sorted(inputs)}")
        used = self.session.get_providers()
        if used[0] != providers[0]:
            self.close()
            raise UserError(f"{path}: asked for {providers[0]} and got {used[0]}. See `dashdeploy doctor`.")
        self.metadata: dict[str, str] = dict(self.session.get_modelmeta().custom_metadata_map)

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """The graph's output."""
        out: NDArray[Any] = self.session.run(None, feeds)[0]
        return out

    def close(self) -> None:
        """Release the session."""
        self.session = None


class SamplerSession:
    """The whole sampler on several CPU threads: the batch is cut, and each part runs all its steps on one thread.

    A small network's operators are too short to be shared between threads: on two cores a cut batch
    finished in 0.65 to 0.75 of the time. A batch of fewer images than threads runs on one thread if the network
    is `small`, and with shared operators otherwise. Sessions are made when they are first needed.
    """

    def __init__(self, path: Path, *, inputs: Sequence[str], threads: int | None = None, small: bool) -> None:
        self.path, self.inputs, self.small = path, tuple(inputs), small
        self.threads = threads or len(os.sched_getaffinity(0))
        self._sessions: dict[int, OnnxSession] = {}
        self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="sampler")
        self.metadata = self._session(self._threads_of(1)).metadata

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """The graph's output for the whole batch."""
        batch = len(next(iter(feeds.values())))
        session = self._session(self._threads_of(batch))
        if batch < self.threads or self.threads == 1:
            return session.run(feeds)
        cuts = np.array_split(np.arange(batch), self.threads)
        parts = [self._pool.submit(session.run, {k: v[c[0] : c[-1] + 1] for k, v in feeds.items()}) for c in cuts]
        return np.concatenate([part.result() for part in parts])

    def _threads_of(self, batch: int) -> int:
        return 1 if self.small or batch >= self.threads else self.threads

    def _session(self, threads: int) -> OnnxSession:
        if threads not in self._sessions:
            self._sessions[threads] = OnnxSession(self.path, inputs=self.inputs, threads=threads)
        return self._sessions[threads]

    def close(self) -> None:
        """Release the threads and the sessions."""
        self._pool.shutdown()
        for session in self._sessions.values():
            session.close()
        self._sessions.clear()
