"""Opened graphs: what a runtime gives, and several of them by name."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import Protocol

import torch


class Session(Protocol):
    """One opened graph: tensors in the order of its inputs in, its output out, all on the model's device."""

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor: ...

    def close(self) -> None: ...


class Chunked:
    """A session that takes at most so many images at once, for any number: larger batches run in parts."""

    def __init__(self, inner: Session, largest: int) -> None:
        self.inner, self.largest = inner, largest

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
        if len(inputs[0]) <= self.largest:
            return self.inner(*inputs)
        parts = zip(*(tensor.split(self.largest) for tensor in inputs), strict=True)
        return torch.cat([self.inner(*part) for part in parts])

    def close(self) -> None:
        """Release the session."""
        self.inner.close()


class Graphs:
    """Sessions by graph name, opened when they are first needed."""

    def __init__(self, names: tuple[str, ...], open_graph: Callable[[str], Session]) -> None:
        self.names, self._open = names, open_graph
        self._sessions: dict[str, Session] = {}
        self._lock = Lock()

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def __getitem__(self, name: str) -> Session:
        with self._lock:  # several threads of a sampler ask at once
            if name not in self._sessions:
                self._sessions[name] = self._open(name)
            return self._sessions[name]

    def close(self) -> None:
        """Release every session."""
        for session in self._sessions.values():
            session.close()
        self._sessions.clear()
